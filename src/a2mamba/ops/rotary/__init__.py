"""Rotary position encoding of a map's heads."""

from a2mamba.ops.rotary.cases import CASES, Case
from a2mamba.ops.rotary.operator import explain_backends, rotate

__all__ = ["CASES", "Case", "explain_backends", "rotate"]
