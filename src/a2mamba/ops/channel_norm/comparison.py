"""The self-test of Triton's kernels, on one small map."""

from __future__ import annotations

import torch

from a2mamba.ops.channel_norm import reference
from a2mamba.ops.channel_norm.cases import CASES
from a2mamba.ops.self_test import asked_once, compare_with_gradients


@asked_once("channel_norm")
def triton(device: torch.device) -> str | None:
    """Return why Triton's kernels are not to be trusted on ``device``, or None."""
    from a2mamba.ops.channel_norm import triton_impl

    x, weight, bias, *settings = CASES[2].inputs()
    tensors = {"x": x, "weight": weight, "bias": bias}
    return compare_with_gradients(triton_impl.run, reference.channel_norm, tensors, tuple(settings), device)
