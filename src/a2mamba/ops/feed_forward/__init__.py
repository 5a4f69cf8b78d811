"""The middle of the feed-forward network: GELU and the residual depthwise convolution after it."""

from a2mamba.ops.feed_forward.cases import CASES, Case
from a2mamba.ops.feed_forward.operator import explain_backends, explain_residual, gelu_depthwise, residual_depthwise
from a2mamba.ops.feed_forward.torch_impl import with_residual

__all__ = [
    "CASES",
    "Case",
    "explain_backends",
    "explain_residual",
    "gelu_depthwise",
    "residual_depthwise",
    "with_residual",
]
