"""Rotary position encoding of a map's heads."""

from a2mamba.ops.rotary.cases import CASES, Case
from a2mamba.ops.rotary.operator import explain_backends, rotate
from a2mamba.ops.rotary.torch_impl import apply_rope

__all__ = ["CASES", "Case", "apply_rope", "explain_backends", "rotate"]
