"""Rotary position encoding in PyTorch's operations, on every device; differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return (B, C, H, W); arguments as in ``reference.rotate``."""
    heads = x.permute(0, 2, 3, 1).unflatten(-1, (-1, 2 * table.shape[2]))
    return apply_rope(heads, table).flatten(3).permute(0, 3, 1, 2)


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Rotate neighboring channel pairs: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        x: (B, H, W, ..., d).
        table: (H, W, d / 2, 2) of ``operator.rotate``.

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
