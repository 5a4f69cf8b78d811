"""What the operator computes, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return the shape and dtype of ``x``; see ``operator.rotate``."""
    height, width, channels = *table.shape[:2], x.shape[-1]
    table = table.view(height * width, *[1] * (x.dim() - 4), channels // 2, 2)
    # The axes of a map are one, so that pairs make no sixth axis of the five that attention has.
    pairs = x.to(torch.promote_types(x.dtype, table.dtype)).flatten(1, 2).unflatten(-1, (-1, 2))
    (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
    rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return rotated.flatten(-2).unflatten(1, (height, width)).to(x.dtype)
