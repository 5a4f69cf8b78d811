"""LayerNorm over the channels of a map."""

from a2mamba.ops.channel_norm.cases import CASES, Case
from a2mamba.ops.channel_norm.operator import channel_norm, explain_backends

__all__ = ["CASES", "Case", "channel_norm", "explain_backends"]
