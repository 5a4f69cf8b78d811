"""What the two operators compute, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def read_out(
    states: Sequence[Tensor], weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> Tensor:
    """Return (B, C, H, W); see ``operator.read_out``."""
    heads = torch.cat(tuple(states), dim=1)
    mixed = torch.einsum("gh,bhyxd->bgyxd", weight, heads) + bias[:, None, None, None]
    mixed = mixed.permute(0, 1, 4, 2, 3).flatten(1, 2)
    return mixed * readout[:, None] + u * skip[:, None, None]


def gated_norm(
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    norm: tuple[Tensor, Tensor],
    out_norm: tuple[Tensor, Tensor],
    eps: float,
) -> Tensor:
    """Return (B, C, H, W); see ``operator.gated_norm``."""
    channels = x.shape[1:2]
    normed = F.layer_norm(x.to(norm[0].dtype).permute(0, 2, 3, 1), channels, *norm, eps)
    gated = (normed + added.permute(0, 2, 3, 1)) * gate.permute(0, 2, 3, 1)
    return F.layer_norm(gated, channels, *out_norm, eps).permute(0, 3, 1, 2)
