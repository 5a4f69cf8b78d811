"""From a network to a program of PyTorch's operations and ours, with the map's size fixed and the batch free."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel


def trace(network: nn.Module, example: Tensor) -> ExportedProgram:
    """Return a network in eval mode as a program.

    Args:
        network: takes one tensor.
        example: of the size that the program is for; its batch must be at least 2, which leaves the batch free.
    """
    # Of other kernels of attention the program would keep the strides that this machine's have.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},))
