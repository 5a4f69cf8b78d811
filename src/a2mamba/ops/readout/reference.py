"""What the two operators compute, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
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
    gate_norm: nn.Module,
    norm: nn.LayerNorm,
    out_norm: nn.LayerNorm,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return (B, C, H, W); see ``operator.gated_norm``."""

    def normalized(x: Tensor, norm: nn.LayerNorm) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps)

    x, added, gate = (each.permute(0, 2, 3, 1) for each in (x, added, F.silu(gate_norm(gate))))
    out = normalized((normalized(x, norm) + added) * gate, out_norm).permute(0, 3, 1, 2)
    return out if dtype is None else out.to(dtype)
