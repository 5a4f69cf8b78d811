"""The rotation as a product of complex numbers: one pass instead of six."""

from __future__ import annotations

import torch
from torch import Tensor

from a2mamba.ops.rotary import reference


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return the shape and dtype of ``x``; arguments as in ``reference.rotate``."""
    if torch.compiler.is_compiling():  # compilers fuse the plain form, and have no code for complex numbers
        return reference.rotate(x, table)
    pairs = x.to(torch.promote_types(x.dtype, table.dtype)).unflatten(-1, (-1, 2))
    if not _are_complex(pairs):
        return reference.rotate(x, table)
    table = table.view(*table.shape[:2], *[1] * (x.dim() - 4), *table.shape[2:])
    rotated = torch.view_as_complex(pairs) * torch.view_as_complex(table.to(pairs.dtype))
    return torch.view_as_real(rotated).flatten(-2).to(x.dtype)


def _are_complex(pairs: Tensor) -> bool:
    """Whether the memory of (..., 2) can be read as complex numbers."""
    even = all(stride % 2 == 0 for stride in pairs.stride()[:-1]) and pairs.storage_offset() % 2 == 0
    return bool(pairs.dtype.itemsize >= 4 and pairs.stride(-1) == 1 and even)
