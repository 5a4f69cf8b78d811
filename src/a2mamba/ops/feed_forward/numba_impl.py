"""GELU with a depthwise convolution on CPUs through Numba: memory and the call. The kernel is ``numba_kernels.py``.

Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first run. The gradient keeps the
map before GELU alone, and computes GELU of it again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from a2mamba.ops import numba_threads
from a2mamba.ops.depthwise.numba_impl import weight_gradients
from a2mamba.ops.numba_arguments import cast, channels_innermost, empty_map, numbers_of, place


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W), channels innermost; arguments as in ``reference.gelu_depthwise``."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        return _GeluDepthwise.apply(x, weight, bias)
    return _run(x, weight, bias, with_gelu=True)


class _GeluDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = bias.dtype
        return _run(x, weight, bias, with_gelu=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            no_bias = weight.new_zeros(len(weight))
            grad_x = _run(cast(grad, x.dtype), weight.flip(2, 3), no_bias, with_gelu=False, before=x)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight, grad_bias = weight_gradients(grad, x, 3, with_gelu=True)
            # The residual is no part of the weight.
            grad_weight, grad_bias = cast(grad_weight, weight.dtype), cast(grad_bias, ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias


def residual_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W), channels innermost; arguments as in ``reference.residual_depthwise``."""
    return _run(x, weight, bias, with_gelu=False)


def _run(x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool, before: Tensor | None = None) -> Tensor:
    """Return the convolution of ``x`` or of GELU of it; times the derivative of GELU at ``before``, where that is."""
    batch, channels, height, columns = x.shape
    out = empty_map(x, x.dtype)
    if not out.numel():
        return out
    x = channels_innermost(x)
    weight, bias = numbers_of(weight, bias)
    chunks, workers = numba_threads.shares(batch, height)
    # Taps and bias, and three rows that the convolution sees.
    scratch_size = (10 + 3 * (columns + 2)) * channels
    scratch = numba_threads.scratch(workers * scratch_size)
    before = None if before is None else channels_innermost(before)
    numbers = [
        *(batch * chunks, chunks, height, columns, channels),
        *(weight.data_ptr(), bias.data_ptr(), scratch.data_ptr(), 4 * scratch_size),
        *(*place(x), *place(out)),
        *(int(with_gelu), int(out.dtype == torch.bfloat16)),
        *((0, 0, 0, 0) if before is None else place(before)),
    ]
    numba_threads.run(_kernel(), workers, numbers)
    return out


@lru_cache(maxsize=1)
def _kernel() -> int:
    from a2mamba.ops.feed_forward import numba_kernels

    return numba_kernels.KERNEL
