"""The end of every mixer: norm, position encoding, gate, norm, projection (docs/network.md, section 4)."""

from __future__ import annotations

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from a2mamba.ops import gated_norm
from a2mamba.ops.precision import without_autocast


def gated_projection(
    mixed: Tensor, lepe: Tensor, gate: Tensor, norm: LayerNorm2d, proj_norm: LayerNorm2d, proj: nn.Conv2d
) -> Tensor:
    """Return ``proj(proj_norm((norm(mixed) + lepe) * gate))`` of maps (B, C, H, W).

    The released models leave autocast behind the addition: the product, the norm and the projection run in the dtype
    of the weights, which is float32 unless the whole model was cast.
    """
    with without_autocast(mixed):
        return proj(gated_norm(mixed, lepe, gate, norm, proj_norm).to(proj.weight.dtype))
