"""The self-tests of the kernels of the rotation, Numba's and Triton's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from a2mamba.ops.rotary import numba_impl, reference
from a2mamba.ops.rotary.cases import CASES
from a2mamba.ops.self_test import asked_once, compare_at_inference, compare_with_gradients


@asked_once("rotate/numba")
def rotate(device: torch.device) -> str | None:
    """Return why the kernel is not to be trusted on ``device``, or None."""
    table = CASES[1].inputs(torch.float32, device)[1]

    def turn(implementation: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: implementation(x, table.to(torch.promote_types(x.dtype, torch.float32)))

    tensors = {"x": CASES[1].inputs(torch.float32)[0]}
    return compare_with_gradients(turn(numba_impl.rotate), turn(reference.rotate), tensors, (), device)


@asked_once("rotate")
def rotate_triton(device: torch.device) -> str | None:
    """Return why Triton's kernel is not to be trusted on ``device``, or None."""
    from a2mamba.ops.rotary import triton_impl

    return compare_at_inference(triton_impl.rotate, reference.rotate, CASES[1].inputs, device)
