"""LayerNorm over the channels of a map, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def channel_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None) -> Tensor:
    """Return (B, C, H, W); see ``operator.channel_norm``."""
    out = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], weight, bias, eps).permute(0, 3, 1, 2)
    return out if dtype is None else out.to(dtype)
