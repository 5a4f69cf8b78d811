"""What the operator computes, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return the shape and dtype of ``x``; see ``operator.rotate``."""
    table = table.view(*table.shape[:2], *[1] * (x.dim() - 4), *table.shape[2:])
    pairs = x.to(torch.promote_types(x.dtype, table.dtype)).unflatten(-1, (-1, 2))
    (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)
