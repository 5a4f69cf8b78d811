"""The self-test of Triton's kernels, on one small map."""

from __future__ import annotations

from functools import partial

import torch

from a2mamba.ops.depthwise import reference
from a2mamba.ops.depthwise.cases import CASES
from a2mamba.ops.self_test import asked_once, compare_at_inference


@asked_once("depthwise_conv")
def triton(device: torch.device) -> str | None:
    """Return why Triton's kernels are not to be trusted on ``device``, or None."""
    from a2mamba.ops.depthwise import triton_impl

    run = partial(triton_impl.run, residual=False)
    return compare_at_inference(run, reference.depthwise_conv, CASES[1].inputs, device)
