"""The end of every mixer: norm, position encoding, gate, norm, projection (SPEC section 4)."""

from __future__ import annotations

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from a2mamba.layers.channel_norm import ChannelNorm
from a2mamba.layers.chunking import may_join, unhooked
from a2mamba.ops import gated_norm
from a2mamba.ops.dispatch import on_gpu, unwatched
from a2mamba.ops.precision import without_autocast


def gated_projection(
    mixed: Tensor, lepe: Tensor, gate: Tensor, norm: LayerNorm2d, proj_norm: LayerNorm2d, proj: nn.Conv2d
) -> Tensor:
    """Return ``proj(proj_norm((norm(mixed) + lepe) * gate))`` of maps (B, C, H, W).

    The released models leave autocast behind the addition: the product, the norm and the projection run in the dtype
    of the weights, which is float32 unless the whole model was cast.
    """
    dtype = proj.weight.dtype
    norms = norm, proj_norm
    if _may_join(mixed, lepe, gate, *norms) and all(
        type(each) in (LayerNorm2d, ChannelNorm) and each.eps == norm.eps for each in norms
    ):
        affine, out_affine = ((each.weight, each.bias) for each in norms)
        return proj(gated_norm(mixed, lepe, gate, affine, out_affine, norm.eps))
    summed = norm(mixed.to(dtype)) + lepe
    with without_autocast(mixed):
        return proj(proj_norm(summed.to(dtype) * gate.to(dtype)))


def _may_join(mixed: Tensor, lepe: Tensor, gate: Tensor, norm: LayerNorm2d, proj_norm: LayerNorm2d) -> bool:
    """Whether everything before the projection may be one operation."""
    if on_gpu(mixed):
        # The kernel there reads all dtypes, and rounds but once.
        return unwatched(mixed) and unhooked(norm) and unhooked(proj_norm)
    return may_join(mixed, norm, proj_norm) and mixed.dtype == lepe.dtype == gate.dtype == norm.weight.dtype
