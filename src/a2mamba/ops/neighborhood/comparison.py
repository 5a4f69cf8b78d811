"""The self-test of the compiled backends: neighborhood attention and its gradients on one small map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from a2mamba.ops.neighborhood import reference
from a2mamba.ops.self_test import asked_once, compare_with_gradients


def _compare(run: Callable[..., Tensor], device: torch.device) -> str | None:
    generator = torch.Generator().manual_seed(0)
    # Odd sizes, two tiles and more an axis, borders, an axis with dilation, padded heads.
    shape, window, dilation = (1, 2, 11, 19), (5, 3), (1, 2)
    tensors = {name: torch.randn(*shape, 24, generator=generator) for name in ("q", "k", "v")}
    tensors["bias"] = torch.randn(2, 2 * window[0] - 1, 2 * window[1] - 1, generator=generator)
    settings = (window, dilation, 24**-0.5)
    return compare_with_gradients(run, reference.neighborhood_attention, tensors, settings, device)


@asked_once("neighborhood_attention")
def triton(device: torch.device) -> str | None:
    """Return why Triton's kernels are not to be trusted on ``device``, or None."""
    from a2mamba.ops.neighborhood import triton_impl

    return _compare(triton_impl.run, device)


@asked_once("neighborhood_attention/numba")
def numba(device: torch.device) -> str | None:
    """Return why Numba's kernels are not to be trusted on ``device``, or None."""
    return _compare(torch.ops.a2mamba.neighborhood_attention_numba, device)
