"""The positional convolution of a block, with the sum before it and the norm behind it."""

from a2mamba.ops.positional.cases import CASES, Case
from a2mamba.ops.positional.operator import explain_backends, positional_norm

__all__ = ["CASES", "Case", "explain_backends", "positional_norm"]
