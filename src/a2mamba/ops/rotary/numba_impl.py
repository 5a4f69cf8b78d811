"""The rotation on CPUs through Numba: memory and the call. The kernel is ``numba_kernels.py``.

Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first run. The gradient is the
rotation back.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES

RUN = 64
"""Positions that a thread takes at a time."""


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return the shape and dtype of ``x``, float32 or bfloat16; arguments as in ``reference.rotate``."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rotation.apply(x, table)
    return _rotate(x, table)


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return _rotate(x, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors
        return _rotate(grad, table * table.new_tensor([1.0, -1.0])), None


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    out = x.new_empty(x.shape)
    if not out.numel():
        return out
    batch, height, width, *heads, d = x.shape
    rows, (of_images, of_rows, step, *of_heads) = x, x.stride()
    if of_heads != [d, 1] or of_rows != width * step or (batch > 1 and of_images != height * of_rows):
        # (positions, heads * d), channels side by side. Strides of axes with one entry may be anything.
        rows = x.flatten(0, 2).flatten(1)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        step = rows.stride(0)
    table = table.contiguous()
    positions, head_count, size = batch * height * width, math.prod(heads), x.itemsize
    items = -(-positions // RUN)
    numbers = [
        *(items, positions, RUN, height * width, head_count, d // LANES),
        *(rows.data_ptr(), size * step, table.data_ptr(), 4 * d, out.data_ptr(), size * head_count * d),
        int(x.dtype == torch.bfloat16),
    ]
    numba_threads.run(_kernel(), min(numba_threads.threads(), items), numbers)
    return out


@lru_cache(maxsize=1)
def _kernel() -> int:
    from a2mamba.ops.rotary import numba_kernels

    return numba_kernels.KERNEL
