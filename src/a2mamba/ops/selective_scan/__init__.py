"""The selective scan with state width one."""

from a2mamba.ops.selective_scan.operator import explain_backends, selective_scan_state

__all__ = ["explain_backends", "selective_scan_state"]
