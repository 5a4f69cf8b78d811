"""ACmix (arXiv:2111.14556): attention and a convolution that share their 1 x 1 projections."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from a2mamba.layers.heads import from_heads, rotated_qkv
from a2mamba.ops import neighborhood_attention

_TAPS = 9


class ACmix(nn.Module):
    """Neighborhood attention and a 3 x 3 convolution of the same queries, keys and values, added with learned weights.

    The convolution's way: the 3 G heads of a channel are mixed into nine maps, one a tap, which grouped convolutions
    move to their places and add.

    Args:
        channels: C, a multiple of 4 * heads.
        heads: G.
        kernel_size: attention window, odd.
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
        head_dim = channels // heads
        span = 2 * kernel_size - 1
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, device=device, dtype=dtype)
        self.bias = nn.Parameter(torch.zeros(heads, span, span, device=device, dtype=dtype))
        self.taps = nn.Linear(3 * heads, _TAPS, bias=False, device=device, dtype=dtype)
        self.move = nn.Conv2d(_TAPS * head_dim, channels, 3, padding=1, groups=head_dim, device=device, dtype=dtype)
        self.shares = nn.Parameter(torch.empty(2, device=device, dtype=dtype))
        self.proj = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Begin with equal shares, and with convolutions that move each map by its tap."""
        nn.init.constant_(self.shares, 0.5)
        self.move.weight.zero_()
        for tap in range(_TAPS):
            self.move.weight[:, tap, tap // 3, tap % 3] = 1

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, C, H, W), with the rotations (H, W, C / G / 2, 2) of the map -> (B, C, H, W)."""
        qkv = self.qkv(x)
        q, k, v = rotated_qkv(qkv, self.heads, rope)
        attended = from_heads(neighborhood_attention(q, k, v, self.bias, kernel_size=self.kernel_size))
        # (B, 3 G, d, H, W) -> for each channel of a head, nine maps.
        by_channel = qkv.unflatten(1, (3 * self.heads, -1)).permute(0, 2, 3, 4, 1)
        maps = self.taps(by_channel).permute(0, 1, 4, 2, 3).flatten(1, 2)
        return self.proj(self.shares[0] * attended + self.shares[1] * self.move(maps))
