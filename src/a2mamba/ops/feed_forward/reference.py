"""What the operator computes, plainly: the specification, differentiated by autograd."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def residual_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x + depthwise_conv(x), (B, C, H, W); weight (C, 1, K, K), bias (C,)."""
    return x + F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=x.shape[1])


def gelu_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return y + depthwise_conv(y) for y = gelu(x), (B, C, H, W); weight (C, 1, 3, 3), bias (C,)."""
    return residual_depthwise(F.gelu(x), weight, bias)
