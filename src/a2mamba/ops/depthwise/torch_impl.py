"""Depthwise convolution in PyTorch's operations, on every device; differentiated by autograd.

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


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor, residual: bool) -> Tensor:
    """Return (B, C, H, W); arguments as in ``reference.depthwise_conv``."""
    padding, groups = weight.shape[-1] // 2, x.shape[1]
    if not residual:
        return F.conv2d(x, weight, bias, padding=padding, groups=groups)
    if in_half_precision(x):
        return x + F.conv2d(x, weight, bias, padding=padding, groups=groups)
    return F.conv2d(x, with_residual(weight), bias, padding=padding, groups=groups)
