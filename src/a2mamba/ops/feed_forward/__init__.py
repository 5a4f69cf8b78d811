"""The middle of the feed-forward network: GELU and the residual depthwise convolution after it."""

from a2mamba.ops.feed_forward.cases import CASES, Case
from a2mamba.ops.feed_forward.operator import explain_backends, gelu_depthwise

__all__ = ["CASES", "Case", "explain_backends", "gelu_depthwise"]
