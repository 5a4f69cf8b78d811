"""The selective scan with state width one."""

from a2mamba.ops.selective_scan.cases import CASES, Case
from a2mamba.ops.selective_scan.operator import explain_backends, selective_scan_state

__all__ = ["CASES", "Case", "explain_backends", "selective_scan_state"]
