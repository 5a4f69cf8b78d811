"""Between channel maps and attention heads. Channels are head-major: channel c belongs to head c // d."""

from __future__ import annotations

import torch
from torch import Tensor

from a2mamba.ops import rotate


def to_heads(x: Tensor, heads: int) -> Tensor:
    """(B, G * d, H, W) -> (B, G, H, W, d), a view."""
    # The function, for the method of that name is one of Python's around it.
    return torch.unflatten(x.permute(0, 2, 3, 1), -1, (heads, -1)).permute(0, 3, 1, 2, 4)


def from_heads(x: Tensor) -> Tensor:
    """(B, G, H, W, d) -> (B, G * d, H, W), a view when the memory is (B, H, W, G, d)."""
    return x.permute(0, 2, 3, 1, 4).flatten(-2).permute(0, 3, 1, 2)


def rotated_qkv(qkv: Tensor, heads: int, rope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, 3 C, H, W), ordered q, k, v, into heads and rotate q and k.

    Args:
        qkv: output of one convolution C -> 3 C.
        heads: G.
        rope: (H, W, d / 2, 2) of ``rope_table``.

    Returns:
        q, k, v, each (B, G, H, W, d) with the heads of a position side by side in memory.
    """
    channels = qkv.shape[1] // 3
    # Five axes at most: Core ML has no tensors of more.
    queries_keys = torch.unflatten(qkv[:, : 2 * channels].permute(0, 2, 3, 1), -1, (2 * heads, -1))
    queries, keys = torch.chunk(rotate(queries_keys, rope).permute(0, 3, 1, 2, 4), 2, dim=1)
    return queries, keys, to_heads(qkv[:, 2 * channels :], heads)
