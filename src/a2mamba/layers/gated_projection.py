"""The end of every mixer: norm, position encoding, gate, norm, projection (docs/network.md, section 4)."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from a2mamba.ops import gated_norm
from a2mamba.ops.precision import in_half_precision, without_autocast


def gated_projection(
    mixed: Tensor,
    lepe: Tensor,
    gate: Tensor,
    gate_norm: nn.Module,
    norm: LayerNorm2d,
    proj_norm: LayerNorm2d,
    proj: nn.Conv2d,
) -> Tensor:
    """Return ``proj(proj_norm((norm(mixed) + lepe) * silu(gate_norm(gate))))`` of maps (B, C, H, W).

    Under autocast the norms and the product run in the dtype of the weights, as in the released models; the projection
    does not, as it does there: a product in 16 bits is several times as fast, and its error is that of all others.
    """
    dtype = proj.weight.dtype
    if in_half_precision(mixed) and dtype == torch.float32:
        dtype = torch.get_autocast_dtype(mixed.device.type)
    with without_autocast(mixed):
        normal = gated_norm(mixed, lepe, gate, gate_norm, norm, proj_norm, dtype=dtype)
    return proj(normal)
