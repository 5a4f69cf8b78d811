"""What the operator computes, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.ops.feed_forward.reference import residual_depthwise


def positional_norm(
    x: Tensor, branch: Tensor | None, skip: nn.Module, pos: nn.Conv2d, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    """Return two maps (B, C, H, W); see ``operator.positional_norm``."""
    assert pos.bias is not None
    if branch is not None:
        x = branch + (x if isinstance(skip, nn.Identity) else affine(x, skip))
    x = residual_depthwise(x, pos.weight, pos.bias)
    normal = F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2], norm.weight, norm.bias, norm.eps)
    return x, normal.permute(0, 3, 1, 2)


def affine(x: Tensor, skip: nn.Module) -> Tensor:
    """Return weight * x + bias of a map, by channel."""
    weight, bias = skip.weight, skip.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    return weight[:, None, None] * x + bias[:, None, None]
