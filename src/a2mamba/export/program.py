"""From a network to a program of PyTorch's operations and ours, with the map's size fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn.attention import SDPBackend, sdpa_kernel

from a2mamba.export.format import Run

_LARGEST_BATCH = 2**31 - 1
"""In torch 2.7 a slice compares the batch with the largest int64, and the program would hold for others alone."""


def trace(network: nn.Module, example: Tensor) -> ExportedProgram:
    """Return a network in eval mode as a program.

    Args:
        network: takes one tensor.
        example: of the size that the program is for. Of one image, the program takes one; of several, any number.
    """
    # Of other kernels of attention the program would keep the strides that this machine's have.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        free = {0: Dim("batch", max=_LARGEST_BATCH)} if example.shape[0] > 1 else None
        program = torch.export.export(network, (example,), dynamic_shapes=(free,))
    _forget_source(program)
    return program


def _forget_source(program: ExportedProgram) -> None:
    """Drop the lines of code that PyTorch notes of every node: megabytes in a file, with paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


def run_program(module: Callable[[Tensor], Sequence[Tensor]]) -> Run:
    """Return what runs a program's module."""

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in module(torch.from_numpy(images))]

    return run
