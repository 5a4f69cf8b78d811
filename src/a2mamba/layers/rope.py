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
