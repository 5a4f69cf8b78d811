"""The self-test of Numba's kernels of readout and gated norm."""

from __future__ import annotations

import torch

from a2mamba.ops.readout import numba_impl, reference
from a2mamba.ops.readout.cases import CASES
from a2mamba.ops.self_test import asked_once, compare_at_inference


@asked_once("read_out/numba")
def read_out(device: torch.device) -> str | None:
    """Return why the readout's kernel is not to be trusted on ``device``, or None."""
    return compare_at_inference(numba_impl.read_out, reference.read_out, CASES[1].read_out_inputs, device)


@asked_once("gated_norm/numba")
def gated_norm(device: torch.device) -> str | None:
    """Return why the gated norm's kernel is not to be trusted on ``device``, or None."""
    return compare_at_inference(numba_impl.gated_norm, reference.gated_norm, CASES[1].gated_norm_inputs, device)
