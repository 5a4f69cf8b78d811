"""From a network to a program of PyTorch's own operations, with the map's size fixed and the batch free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from a2mamba.export.attention import neighborhood_attention
from a2mamba.export.scan import selective_scan_state


def _resize_pair_bias(bias: Tensor, tokens: int) -> Tensor:
    """Resize (G, N, N) to (G, tokens, tokens), bicubic."""
    return F.interpolate(bias[None], size=(tokens, tokens), mode="bicubic", align_corners=False)[0]


_FORMS: dict[str, Callable[..., Any]] = {
    "neighborhood_attention": neighborhood_attention,
    "neighborhood_attention_again": neighborhood_attention,
    "neighborhood_attention_numba": neighborhood_attention,
    "neighborhood_attention_numba_again": neighborhood_attention,
    "selective_scan_state": selective_scan_state,
    "selective_scan_state_numba": selective_scan_state,
    "resize_pair_bias": _resize_pair_bias,
}
"""Our operators, by the names that they are registered under, in PyTorch's operations."""


def trace(network: nn.Module, example: Tensor) -> ExportedProgram:
    """Return a network in eval mode as a program that calls none of our operators.

    Args:
        network: takes one tensor.
        example: of the size that the program is for; its batch must be at least 2, which leaves the batch free.

    Raises:
        ValueError: where the network calls an operator that has no such form.
    """
    forms = {getattr(torch.ops.a2mamba, name).default: form for name, form in _FORMS.items()}
    # Of other kernels of attention the program would keep the strides that this machine's have.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},))
        program = program.run_decompositions(forms)
    ours = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("a2mamba.")}
    if ours:
        raise ValueError(f"no form for export of {', '.join(sorted(ours))}")
    return program
