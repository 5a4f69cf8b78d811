"""MaxViT's attention (arXiv:2204.01697): inside windows, then between the positions that windows share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.windows import from_windows, pad_to_grid, to_windows


class BlockGrid(nn.Module):
    """Block attention, then grid attention of its output, with the same queries and keys.

    A map is cut into N x N windows, N fixed for a stage, so that windows grow with the image as MaxViT's do. Grid
    attention takes one position from each of (H / N) x (W / N) cells. The map is padded to multiples of N, and nobody
    attends to the padding.

    Args:
        channels: C.
        heads: G.
        kernel_size: N.
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
        self.cells = kernel_size
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, device=device, dtype=dtype)
        self.proj = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); the rotations are not read."""
        height, width = x.shape[2:]
        q, k, v = pad_to_grid(self.qkv(x), self.cells).chunk(3, dim=1)
        inside = pad_to_grid(x.new_ones(1, 1, height, width), self.cells)
        blocks = self._attend(*(to_windows(part, self.cells) for part in (q, k, v, inside)))
        local = from_windows(blocks, self.cells, *q.shape[2:])
        grid = self._attend(*(to_windows(part, self.cells).transpose(1, 2) for part in (q, k, local, inside)))
        mixed = from_windows(grid.transpose(1, 2), self.cells, *q.shape[2:])
        return self.proj(mixed[:, :, :height, :width])

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, inside: Tensor) -> Tensor:
        """(B, groups, positions, C) each, and which positions are inside -> (B, groups, positions, C)."""
        q, k, v = (part.unflatten(3, (self.heads, -1)).transpose(2, 3) for part in (q, k, v))
        # A group that lies in the padding altogether attends to itself, and is cut off afterwards.
        visible = (inside[..., 0] > 0) | (inside[..., 0] == 0).all(-1, keepdim=True)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, :, None, None])
        return mixed.transpose(2, 3).flatten(3)
