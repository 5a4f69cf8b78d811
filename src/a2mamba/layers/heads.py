"""Between channel maps and attention heads. Channels are head-major: channel c belongs to head c // d."""

from __future__ import annotations

import torch
from torch import Tensor

from a2mamba.ops import rotate


def to_heads(x: Tensor, heads: int) -> Tensor:
    """(B, G * d, H, W) -> (B, G, H, W, d), a view."""
    return x.permute(0, 2, 3, 1).unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)


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
    queries_keys = qkv[:, : 2 * channels].permute(0, 2, 3, 1).unflatten(-1, (2 * heads, -1))
    queries, keys = rotate(queries_keys, rope).permute(0, 3, 1, 2, 4).split(heads, dim=1)
    return queries, keys, to_heads(qkv[:, 2 * channels :], heads)


def join_halves(first: Tensor, second: Tensor) -> Tensor:
    """Invert :func:`halves`; the heads of a position lie side by side in memory, as :func:`from_heads` wants them."""
    return torch.cat((first.permute(0, 2, 3, 1, 4), second.permute(0, 2, 3, 1, 4)), dim=3).permute(0, 3, 1, 2, 4)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and the second half of the heads of (B, G, H, W, d)."""
    first, second = torch.chunk(x, 2, dim=1)
    return first, second
