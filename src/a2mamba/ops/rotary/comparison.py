"""The self-tests of the kernels of the rotation, Numba's and Triton's."""

from __future__ import annotations

import torch

from a2mamba.ops.rotary import numba_impl, reference
from a2mamba.ops.rotary.cases import CASES
from a2mamba.ops.self_test import TOLERANCES, asked_once, compare_at_inference, compare_outputs


@asked_once("rotate/numba")
def rotate(device: torch.device) -> str | None:
    """Return why the kernel is not to be trusted on ``device``, or None."""
    x, table = CASES[1].inputs(torch.bfloat16, device)
    expected = reference.rotate(x.double(), table.double())
    return compare_outputs(["output"], [numba_impl.rotate(x, table)], [expected], TOLERANCES[torch.bfloat16])


@asked_once("rotate")
def rotate_triton(device: torch.device) -> str | None:
    """Return why Triton's kernel is not to be trusted on ``device``, or None."""
    from a2mamba.ops.rotary import triton_impl

    return compare_at_inference(triton_impl.rotate, reference.rotate, CASES[1].inputs, device)
