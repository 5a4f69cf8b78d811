"""BiFormer's bi-level routing attention (arXiv:2303.08810): each region attends to the regions that suit it best."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.windows import from_windows, pad_to_grid, to_windows

REGIONS = 7
"""An axis of a map is cut into so many regions."""


class BiLevelRouting(nn.Module):
    """Attention of every region of a 7 x 7 grid to its N best ones, by the products of mean queries and keys.

    A 5 x 5 depthwise convolution of the values is added. The map is padded to multiples of 7, and nobody attends to the
    padding unless a region has nothing else.

    Args:
        channels: C.
        heads: G.
        kernel_size: N, at most 49, where all regions are attended.
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
        self.routes = kernel_size
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, device=device, dtype=dtype)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, device=device, dtype=dtype)
        self.proj = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); the rotations are not read."""
        height, width = x.shape[2:]
        qkv = self.qkv(x)
        lepe = self.lepe(qkv[:, 2 * x.shape[1] :])
        padded = pad_to_grid(qkv, REGIONS)
        q, k, v = (to_windows(part, REGIONS) for part in padded.chunk(3, dim=1))
        inside = to_windows(pad_to_grid(x.new_ones(1, 1, height, width), REGIONS), REGIONS)[..., 0]
        chosen = self._routes(q, k, inside)
        mixed = self._attend(q, self._gather(k, chosen), self._gather(v, chosen), inside[0, chosen].flatten(2) > 0)
        mixed = from_windows(mixed, REGIONS, *padded.shape[2:])[:, :, :height, :width]
        return self.proj(mixed + lepe)

    def _routes(self, q: Tensor, k: Tensor, inside: Tensor) -> Tensor:
        """Return the N regions that each region attends to, (B, regions, N); the choice has no gradient."""
        with torch.no_grad():
            counts = inside.sum(-1)[..., None].clamp(min=1)
            queries, keys = ((part * inside[..., None]).sum(2) / counts for part in (q, k))
            fitting = queries @ keys.transpose(1, 2)
            fitting = fitting.masked_fill(inside.sum(-1)[:, None] == 0, -torch.inf)
            return fitting.topk(self.routes, dim=-1).indices

    @staticmethod
    def _gather(x: Tensor, chosen: Tensor) -> Tensor:
        """(B, regions, positions, C) and (B, regions, N) -> (B, regions, N * positions, C)."""
        batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
        return x[batch, chosen].flatten(2, 3)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
        """(B, regions, positions, C) -> the same shape."""
        q, k, v = (part.unflatten(3, (self.heads, -1)).transpose(2, 3) for part in (q, k, v))
        visible = visible | ~visible.any(-1, keepdim=True)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, :, None, None])
        return mixed.transpose(2, 3).flatten(3)
