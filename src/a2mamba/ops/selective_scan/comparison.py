"""The self-test of the compiled backends: the scan and its gradients on one short sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from a2mamba.ops.selective_scan import reference
from a2mamba.ops.self_test import asked_once, compare_with_gradients


def _compare(run: Callable[..., Tensor], device: torch.device, channels: int) -> str | None:
    generator = torch.Generator().manual_seed(0)
    # Three chunks of channels-last tokens, the last one cut short.
    batch, length = 1, 300
    tensors = {
        name: torch.randn(batch, length, channels, generator=generator).transpose(1, 2) for name in ("u", "delta")
    }
    tensors["A"] = -torch.rand(channels, generator=generator) - 0.1
    tensors["B"] = torch.randn(batch, 2, length, generator=generator)
    tensors["delta_bias"] = torch.randn(channels, generator=generator) - 2
    return compare_with_gradients(run, reference.selective_scan_state, tensors, (True,), device)


@asked_once("selective_scan_state")
def triton(device: torch.device) -> str | None:
    """Return why Triton's kernels are not to be trusted on ``device``, or None."""
    from a2mamba.ops.selective_scan import triton_impl

    return _compare(triton_impl.run, device, channels=6)


@asked_once("selective_scan_state/numba")
def numba(device: torch.device) -> str | None:
    """Return why Numba's kernels are not to be trusted on ``device``, or None."""
    return _compare(torch.ops.a2mamba.selective_scan_state_numba, device, channels=2 * 11)
