"""GELU with a residual depthwise convolution in PyTorch's operations.

In float32 the residual is a one in the middle of the kernel, which saves a pass over the map. In half precision the sum
of that one and a small weight would be rounded, so there the two are added as they are written.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from a2mamba.ops.precision import in_half_precision


def with_residual(weight: Tensor) -> Tensor:
    """Return the kernels (C, 1, K, K) with a one added in their middle: one pass over the map less."""
    return weight + F.pad(weight.new_ones(1, 1, 1, 1), (weight.shape[-1] // 2,) * 4)


def residual_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x + depthwise_conv(x) of a map (B, C, H, W), padded with zeros; weight (C, 1, K, K), bias (C,)."""
    padding, groups = weight.shape[-1] // 2, x.shape[1]
    if in_half_precision(x):
        return x + F.conv2d(x, weight, bias, padding=padding, groups=groups)
    return F.conv2d(x, with_residual(weight), bias, padding=padding, groups=groups)


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W); arguments as in ``reference.gelu_depthwise``."""
    return residual_depthwise(F.gelu(x), weight, bias)
