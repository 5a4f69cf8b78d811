"""What follows the attention at every position: states are mixed and read out, the result is normed and gated."""

from a2mamba.ops.readout.cases import CASES, Case
from a2mamba.ops.readout.operator import explain_gated_norm, explain_read_out, gated_norm, read_out

__all__ = ["CASES", "Case", "explain_gated_norm", "explain_read_out", "gated_norm", "read_out"]
