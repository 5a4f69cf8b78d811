"""5 x 5 depthwise convolution with a gradient on CPUs: PyTorch's convolutions, Numba for the gradient of the weight.

PyTorch takes twenty times as long for that gradient as for the convolution, and forty times in bfloat16 (5 x 5; not so
for 3 x 3). Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES, not_plain, numba_missing, untraced
from a2mamba.ops.numba_arguments import cast, channels_innermost, place
from a2mamba.ops.precision import convolution_dtype, without_autocast

ITEM_VECTORS = 4
"""Vectors of channels of an item of work: at least a line of memory, and rows that stay in the first caches."""

KERNEL_SIZE = 5


def why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Return why there is no gradient by Numba for the arguments of ``operator.depthwise_conv``, or None."""
    if not torch.is_grad_enabled() or not (weight.requires_grad or bias.requires_grad):
        return "it is for gradients of weights, and none is wanted"
    if weight.shape[-1] != KERNEL_SIZE:
        return f"it is for kernels of 5 x 5, got {weight.shape[-1]} x {weight.shape[-1]}"
    objection = numba_missing(x) or not_plain(x, weight, bias)
    if objection is not None:
        return objection
    if convolution_dtype(x, weight, bias) not in (torch.float32, torch.bfloat16):
        return f"it is for convolutions in float32 or bfloat16, got {x.dtype}, {weight.dtype} and {bias.dtype}"
    if x.shape[1] % LANES:
        return f"the channels must be a multiple of {LANES}, got {x.shape[1]}"
    return None if untraced(x) else "a graph or something that watches needs PyTorch's own operation"


def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W), with a gradient; arguments as in ``operator.depthwise_conv``."""
    dtype = convolution_dtype(x, weight, bias)
    return _Convolution.apply(x.to(dtype), weight.to(dtype), bias.to(dtype))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=KERNEL_SIZE // 2, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = None
        if ctx.needs_input_grad[0]:
            # The gradient of the map is a convolution with the kernel turned about.
            with without_autocast(x):
                grad_x = F.conv2d(grad, weight.flip(2, 3), padding=KERNEL_SIZE // 2, groups=x.shape[1])
        grad_weight, grad_bias = weight_gradients(grad, x, KERNEL_SIZE)
        return grad_x, cast(grad_weight, x.dtype), cast(grad_bias, x.dtype)


def weight_gradients(grad: Tensor, x: Tensor, size: int, *, with_gelu: bool = False) -> tuple[Tensor, Tensor]:
    """Return the gradients (C, 1, size, size) and (C,) of weight and bias, float32.

    Args:
        grad: gradient of the convolution, (B, C, H, W).
        x: the map, same shape, float32 or bfloat16.
        size: of the kernel, 3 or 5.
        with_gelu: the convolution is of GELU of ``x``.
    """
    batch, channels, height, columns = x.shape
    if not x.numel():
        gradients = x.new_zeros(size * size + 1, channels, dtype=torch.float32)
        return gradients[:-1].T.reshape(channels, 1, size, size), gradients[-1].clone()
    from a2mamba.ops.depthwise import numba_kernels

    x, grad = channels_innermost(x), channels_innermost(cast(grad, x.dtype))
    vectors = min(ITEM_VECTORS, channels // LANES)
    items = batch * -(-channels // (vectors * LANES))
    workers = min(numba_threads.threads(), items)
    sums = x.new_empty(batch, size * size + 1, channels, dtype=torch.float32)
    rows = size * (columns + size - 1) + columns
    scratch = sums.new_empty(workers, LANES * vectors * (rows + size * size + 1))
    numbers = [items, height, columns, channels, vectors, *place(x), *place(grad)]
    numbers += [sums.data_ptr(), scratch.data_ptr(), 4 * scratch.stride(0)]
    numbers += [int(x.dtype == torch.bfloat16), size, int(with_gelu)]
    numba_threads.run(numba_kernels.KERNEL, workers, numbers)
    total = numba_threads.ordered_sum(sums)
    return total[:-1].T.reshape(channels, 1, size, size), total[-1].clone()
