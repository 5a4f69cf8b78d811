"""The self-test of the compiled backends, on one small map: Triton's output, Numba's gradients."""

from __future__ import annotations

from functools import partial

import torch

from a2mamba.ops.depthwise import reference
from a2mamba.ops.depthwise.cases import CASES, Case
from a2mamba.ops.self_test import asked_once, compare_at_inference, compare_with_gradients


@asked_once("depthwise_conv")
def triton(device: torch.device) -> str | None:
    """Return why Triton's kernels are not to be trusted on ``device``, or None."""
    from a2mamba.ops.depthwise import triton_impl

    run = partial(triton_impl.run, residual=False)
    return compare_at_inference(run, reference.depthwise_conv, CASES[1].inputs, device)


@asked_once("depthwise_conv/numba")
def numba(device: torch.device) -> str | None:
    """Return why Numba's kernels are not to be trusted on ``device``, or None."""
    from a2mamba.ops.depthwise import numba_impl

    # More channels than an item has, and not a multiple of them.
    tensors = dict(zip(("x", "weight", "bias"), Case(2, 40, 6, 9, 5).inputs(), strict=True))
    return compare_with_gradients(numba_impl.run, reference.depthwise_conv, tensors, (), device)
