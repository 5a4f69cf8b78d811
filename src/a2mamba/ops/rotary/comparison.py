"""The self-test of Triton's kernels, on one small map."""

from __future__ import annotations

import torch

from a2mamba.ops.rotary import reference
from a2mamba.ops.rotary.cases import CASES
from a2mamba.ops.self_test import asked_once, compare_at_inference


@asked_once("rotate")
def triton(device: torch.device) -> str | None:
    """Return why Triton's kernels are not to be trusted on ``device``, or None."""
    from a2mamba.ops.rotary import triton_impl

    return compare_at_inference(triton_impl.run, reference.rotate, CASES[1].inputs, device)
