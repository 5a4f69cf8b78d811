"""Two-dimensional rotary position encoding (docs/network.md, section 4; as in the released models)."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_frequencies(head_dim: int, device: torch.device | None = None) -> Tensor:
    """Return the (head_dim / 4,) angular frequencies of one axis, float32, from 1 down to 1 / 10000."""
    return 1.0 / (10000 ** torch.linspace(0, 1, head_dim // 4, device=device))


def rope_table(height: int, width: int, head_dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the rotations of a map: (H, W, head_dim / 2, 2) with cosine and sine last.

    The first half of the channel pairs turns with the row index, the second half with the column index. Angles are
    computed in float32 and rounded once, to ``dtype``.
    """
    frequency = rope_frequencies(head_dim, device)
    rows = torch.arange(height, device=device, dtype=torch.float32)[:, None, None] * frequency
    columns = torch.arange(width, device=device, dtype=torch.float32)[:, None] * frequency
    angle = torch.cat((rows.expand(height, width, -1), columns.expand(height, width, -1)), dim=-1)
    return torch.stack((angle.cos(), angle.sin()), dim=-1).to(dtype)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighboring channel pairs: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        x: (B, H, W, ..., d).
        table: (H, W, d / 2, 2) of :func:`rope_table`.

    Returns:
        The shape and dtype of ``x``.
    """
    table = table.view(*table.shape[:2], *[1] * (x.dim() - 4), *table.shape[2:])
    pairs = x.to(torch.promote_types(x.dtype, table.dtype)).unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling() and _are_complex(pairs):
        # One pass instead of six. Compilers fuse the form below, and have no code for complex numbers.
        rotated = torch.view_as_complex(pairs) * torch.view_as_complex(table.to(pairs.dtype))
        return torch.view_as_real(rotated).flatten(-2).to(x.dtype)
    (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)


def _are_complex(pairs: Tensor) -> bool:
    """Whether the memory of (..., 2) can be read as complex numbers."""
    even = all(stride % 2 == 0 for stride in pairs.stride()[:-1]) and pairs.storage_offset() % 2 == 0
    return bool(pairs.dtype.itemsize >= 4 and pairs.stride(-1) == 1 and even)
