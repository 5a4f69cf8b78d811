"""Depthwise convolution with bias and residual."""

from a2mamba.ops.depthwise.cases import CASES, Case
from a2mamba.ops.depthwise.operator import depthwise_conv, explain_backends

__all__ = ["CASES", "Case", "depthwise_conv", "explain_backends"]
