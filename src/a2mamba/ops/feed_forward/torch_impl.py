"""GELU with a residual depthwise convolution in PyTorch's operations."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from a2mamba.ops.depthwise.torch_impl import depthwise_conv


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W); arguments as in ``reference.gelu_depthwise``."""
    return depthwise_conv(F.gelu(x), weight, bias, True)
