"""Rotary position encoding of queries and keys."""

from a2mamba.ops.rotary.cases import CASES, Case
from a2mamba.ops.rotary.operator import explain_backends, rotate

__all__ = ["CASES", "Case", "explain_backends", "rotate"]
