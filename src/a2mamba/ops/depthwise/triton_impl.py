"""The depthwise convolution on GPUs, at inference: launches of ``triton_kernels.py`` and checks."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from a2mamba.ops.depthwise import triton_kernels as kernels
from a2mamba.ops.dispatch import unfit
from a2mamba.ops.triton_launch import Launch, kind, on_device, registers, remembered, repeated
from a2mamba.ops.triton_maps import empty_map, position_stride, unfit_maps, watched

VECTOR_BYTES = 16
"""What a thread reads at a time, where the kernel is small and memory lies so."""

GROUP_BYTES = 128
"""Channels of a program, at most: a line of the first cache. The rest of a program are columns."""

THREADS = 128
"""Of a program, and vectors in a row of it."""

REGISTERS = 168
"""Of a thread, at most: three programs on a processor."""

ROWS = (7, 6, 5, 4, 2, 1)
"""Rows that a thread may own: more would take more registers."""

PROGRAMS = 264
"""Programs that make use of a GPU: two for each of its processors. With fewer, threads own fewer rows."""

MAX_KERNEL = 7
"""The taps are written out one by one."""


def why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Return why this kernel cannot run the arguments of ``operator.depthwise_conv``, or None."""
    return watched(x) or _unfit(x, weight, bias)


@remembered
def _unfit(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    if weight.shape[-1] > MAX_KERNEL:
        return f"kernels have up to {MAX_KERNEL} x {MAX_KERNEL} taps, got {weight.shape[-1]}"
    objection = unfit(x=x, weight=weight, bias=bias) or unfit_maps(x=x)
    if objection is None and x.shape[2] * x.shape[3] * (position_stride(x) or 0) >= 2**31:
        return "an image of x spans 2^31 elements or more"
    return objection


def _group(vectors: int, most: int) -> int:
    """Return how many of the vectors of a position a program has: those that leave the fewest threads without work."""
    return min(range(min(most, vectors), 0, -1), key=lambda group: triton.cdiv(vectors, group) * group)


def _rows(height: int, kernel_size: int, vectors: int) -> int:
    """Return how many rows a thread owns: those that cost the fewest instructions, of those that make use of a GPU.

    Args:
        height: of the map.
        kernel_size: K.
        vectors: in one row of all images.
    """

    def instructions(rows: int) -> int:
        # A product and a sum are one; a reading takes about as long as three of them.
        return triton.cdiv(height, rows) * kernel_size * (rows * kernel_size + 3 * (rows + kernel_size - 1))

    enough = [rows for rows in ROWS if triton.cdiv(height, rows) * vectors >= PROGRAMS * THREADS]
    return min(enough, key=instructions) if enough else ROWS[-1]


def forward_launch(out: Tensor, x: Tensor, taps: Tensor, bias: Tensor, *, residual: bool, silu: bool = False) -> Launch:
    """Launch that fills ``out``; ``taps`` are the weight as (K * K, C)."""
    batch, channels, height, width = x.shape
    kernel_size, apart = math.isqrt(len(taps)), position_stride(x)
    assert apart is not None
    # With the factors of larger kernels, eight channels would take more registers than there are.
    vector = VECTOR_BYTES // x.element_size() if kernel_size == 3 else 4
    vectors = triton.cdiv(channels, vector)
    group = _group(vectors, GROUP_BYTES // (vector * x.element_size()))
    rows = _rows(height, kernel_size, batch * width * vectors)
    strips, blocks = triton.cdiv(height, rows), triton.cdiv(vectors, group)
    columns = batch * strips * width
    arguments = {
        "x": x,
        "weight": taps,
        "bias": bias,
        "out": out,
        "height": height,
        "width": width,
        "strips": strips,
        "blocks": blocks,
        "columns": columns,
        "x_p": apart,
        "C": channels,
        "VEC": vector,
        "GROUP": group,
        "THREADS": THREADS,
        "ALIGN": math.gcd(apart, vector),
        "K": kernel_size,
        "ROWS": rows,
        "RESIDUAL": residual,
        "SILU": silu,
        "num_warps": THREADS // 32,
        "num_stages": 1,
        **registers(x, REGISTERS),
    }
    return kernels.depthwise_kernel, (blocks * triton.cdiv(columns * group, THREADS),), arguments


def run(x: Tensor, weight: Tensor, bias: Tensor, *, residual: bool, silu: bool = False) -> Tensor:
    """Return the convolution, or its sum with ``x``, or SiLU of either, (B, C, H, W), channels innermost."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    out = empty_map(x, torch.promote_types(dtype, x.dtype) if residual else dtype)
    if not out.numel():
        return out
    taps, bias = weight.flatten(1).t().contiguous(), bias.contiguous()
    key = "depthwise conv", *map(kind, (x, taps, bias)), out.dtype, residual, silu
    (launch,) = repeated(key, lambda: [forward_launch(out, x, taps, bias, residual=residual, silu=silu)])
    with on_device(x):
        launch(x=x, weight=taps, bias=bias, out=out)
    return out
