"""The self-test of Numba's kernel of the residual depthwise convolution, with GELU before it and without."""

from __future__ import annotations

import torch

from a2mamba.ops.feed_forward import numba_impl, reference
from a2mamba.ops.feed_forward.cases import CASES
from a2mamba.ops.self_test import asked_once, compare_at_inference, compare_with_gradients


@asked_once("residual_depthwise/numba")
def residual_depthwise(device: torch.device) -> str | None:
    """Return why the kernel without GELU is not to be trusted on ``device``, or None."""
    return compare_at_inference(numba_impl.residual_depthwise, reference.residual_depthwise, CASES[1].inputs, device)


@asked_once("gelu_depthwise/numba")
def gelu_depthwise(device: torch.device) -> str | None:
    """Return why the kernel is not to be trusted on ``device``, or None."""
    tensors = dict(zip(("x", "weight", "bias"), CASES[1].inputs(), strict=True))
    return compare_with_gradients(numba_impl.forward, reference.gelu_depthwise, tensors, (), device)
