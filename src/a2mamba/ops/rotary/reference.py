"""Rotary position encoding, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return (B, C, H, W); see ``operator.rotate``."""
    height, width, pairs, _ = table.shape
    cos, sin = table.view(height, width, 1, pairs, 2).unbind(-1)
    wide = x.to(torch.promote_types(x.dtype, table.dtype))
    a, b = wide.permute(0, 2, 3, 1).unflatten(-1, (-1, pairs, 2)).unbind(-1)
    rotated = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return rotated.flatten(3).to(x.dtype).permute(0, 3, 1, 2)
