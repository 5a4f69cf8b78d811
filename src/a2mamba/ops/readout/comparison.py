"""The self-tests of the kernels of readout and gated norm, Numba's and Triton's."""

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


@asked_once("read_out")
def read_out_triton(device: torch.device) -> str | None:
    """Return why Triton's kernel of the readout is not to be trusted on ``device``, or None."""
    from a2mamba.ops.readout import triton_impl

    return compare_at_inference(triton_impl.read_out, reference.read_out, CASES[2].read_out_inputs, device)


@asked_once("gated_norm")
def gated_norm_triton(device: torch.device) -> str | None:
    """Return why Triton's kernel of the gated norm is not to be trusted on ``device``, or None."""
    from a2mamba.ops.readout import triton_impl

    return compare_at_inference(triton_impl.gated_norm, reference.gated_norm, CASES[2].gated_norm_inputs, device)
