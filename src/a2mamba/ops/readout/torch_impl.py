"""Readout and gated norm in PyTorch's own operations, on every device; differentiated by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.ops.dispatch import not_plain
from a2mamba.ops.precision import without_autocast


def read_out(
    states: Sequence[Tensor], weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> Tensor:
    """Return the readout, float32 at least; arguments as in ``reference.read_out``. Autocast rules the mixing alone."""
    heads = states[0] if len(states) == 1 else torch.cat(tuple(states), dim=1)
    if not_plain(weight, bias):
        # A linear map is what quantized weights are made for, and often all that they can.
        mixed = F.linear(heads.movedim(1, -1), weight, bias).movedim(-1, 1)
    else:
        # One product an image; a product a position would be many tiny ones.
        mixed = torch.baddbmm(bias[:, None], weight.expand(heads.shape[0], -1, -1), heads.flatten(2)).view(heads.shape)
    mixed = mixed.permute(0, 2, 3, 1, 4).flatten(-2).permute(0, 3, 1, 2)
    with without_autocast(u):
        dtype = torch.promote_types(u.dtype, torch.float32)
        return torch.addcmul(u.to(dtype) * skip.to(dtype)[:, None, None], mixed.to(dtype), readout[:, None].to(dtype))


def gated_norm(
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    gate_norm: nn.Module,
    norm: nn.LayerNorm,
    out_norm: nn.LayerNorm,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the gated norm; arguments as in ``operator.gated_norm``. The norms are called, with their hooks."""
    inner = norm.weight.dtype
    gate = F.silu(gate_norm(gate))
    out = out_norm((norm(x.to(inner)) + added.to(inner)) * gate.to(inner))
    return out if dtype is None else out.to(dtype)
