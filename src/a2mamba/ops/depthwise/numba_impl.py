"""5 x 5 depthwise convolution with a gradient on CPUs: PyTorch's convolutions, Numba for the gradient of the weight.

PyTorch takes twenty times as long for that gradient as for the convolution, and forty times in bfloat16 (5 x 5; not so
for 3 x 3). Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES, not_plain, numba_missing, untraced
from a2mamba.ops.numba_arguments import addresses, cast
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
        return grad_x, *weight_gradients(grad, x)


def weight_gradients(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients (C, 1, 5, 5) and (C,) of weight and bias, in the dtype of ``x``.

    Args:
        grad: gradient of the convolution, (B, C, H, W).
        x: the map, same shape, float32 or bfloat16.
    """
    batch, channels, height, columns = x.shape
    if not x.numel():
        return x.new_zeros(channels, 1, KERNEL_SIZE, KERNEL_SIZE), x.new_zeros(channels)
    from a2mamba.ops.depthwise import numba_kernels

    x, grad = _channels_innermost(x), _channels_innermost(cast(grad, x.dtype))
    vectors = min(ITEM_VECTORS, channels // LANES)
    items = batch * -(-channels // (vectors * LANES))
    workers = min(numba_threads.threads(), items)
    sums = x.new_empty(batch, numba_kernels.SUMS, channels, dtype=torch.float32)
    rows = KERNEL_SIZE * (columns + KERNEL_SIZE - 1) + columns
    scratch = sums.new_empty(workers, LANES * (vectors * (rows + numba_kernels.SUMS) + 1))
    numbers = [items, height, columns, channels, vectors]
    for each in (x, grad):
        numbers += addresses(each, 3)
    numbers += [sums.data_ptr(), scratch.data_ptr(), 4 * scratch.stride(0), int(x.dtype == torch.bfloat16)]
    numba_threads.run(numba_kernels.KERNEL, workers, numbers)
    # Images are added in their order, however many threads there are.
    total = functools.reduce(torch.add, sums).to(x.dtype)
    return total[:-1].T.reshape(channels, 1, KERNEL_SIZE, KERNEL_SIZE), total[-1].clone()


def _channels_innermost(x: Tensor) -> Tensor:
    """Return (B, C, H, W) as (B, H, W, C), channels side by side; without a copy where they are so already."""
    x = x.permute(0, 2, 3, 1)
    return x if x.stride(-1) == 1 else x.contiguous()
