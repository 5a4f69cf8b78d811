"""PVT's spatial-reduction attention (arXiv:2102.12122): all positions attend to a map that is R times smaller."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.windows import pad_to_grid


class SpatialReduction(nn.Module):
    """Global attention whose keys and values come from a convolution of R x R, stride R.

    Args:
        channels: C.
        heads: G.
        kernel_size: R; 1 leaves the convolution out.
        global_tokens: makes no difference.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        kernel_size: int,
        global_tokens: int | None = None,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kernel_size = kernel_size
        self.q = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, device=device, dtype=dtype)
        self.proj = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)
        self.reduce: nn.Conv2d | None = None
        if kernel_size > 1:
            self.reduce = nn.Conv2d(channels, channels, kernel_size, kernel_size, device=device, dtype=dtype)
            self.norm = LayerNorm2d(channels, device=device, dtype=dtype)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); the rotations are not read."""
        q = self._tokens(self.q(x))
        reduced = x if self.reduce is None else self.norm(self.reduce(pad_to_grid(x, self.kernel_size)))
        k, v = map(self._tokens, self.kv(reduced).chunk(2, dim=1))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:]))

    def _tokens(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, G, H W, d)."""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)
