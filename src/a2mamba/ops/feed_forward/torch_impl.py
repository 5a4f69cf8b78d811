"""GELU with a depthwise convolution in PyTorch's operations, for float32 and wider."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def with_residual(weight: Tensor) -> Tensor:
    """Return the kernels (C, 1, K, K) with a one added in their middle: one pass over the map less."""
    return weight + F.pad(weight.new_ones(1, 1, 1, 1), (weight.shape[-1] // 2,) * 4)


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W); arguments as in ``reference.gelu_depthwise``."""
    return F.conv2d(F.gelu(x), with_residual(weight), bias, padding=1, groups=x.shape[1])
