"""Triton kernels of LayerNorm over channels: one reading of the map, float32 inside.

A program owns some *rows*, which are positions of the batch of maps, with all their channels. ``_p`` is how far apart
the positions of a map are in memory. PyTorch's kernel gives every row a block of threads, of which 48 channels leave
most without work.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def channel_norm_kernel(
    x, weight, bias, out, means, scales, rows, x_p, eps,
    C: tl.constexpr, C_PAD: tl.constexpr, ROWS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Fill out (rows, C) and, with KEEP, means and scales (rows,): what the backward needs."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, C_PAD)
    real = channel < C
    exists = (row < rows)[:, None] & real[None, :]
    values = tl.load(x + row[:, None] * x_p + channel[None, :], mask=exists, other=0.0).to(tl.float32)
    mean = tl.sum(values, 1) / C
    centered = tl.where(real[None, :], values - mean[:, None], 0.0)
    scale = tl.rsqrt(tl.sum(centered * centered, 1) / C + eps)
    factor = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    result = centered * scale[:, None] * factor + shift
    tl.store(out + row[:, None] * C + channel[None, :], result.to(out.dtype.element_ty), mask=exists)
    if KEEP:
        tl.store(means + row, mean, mask=row < rows)
        tl.store(scales + row, scale, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "rows_per_program"])
def channel_norm_backward_kernel(
    grad, x, weight, means, scales, grad_x, grad_weight, grad_bias, rows, rows_per_program, grad_p, x_p,
    C: tl.constexpr, C_PAD: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Fill grad_x (rows, C) and this program's share of grad_weight and grad_bias (programs, C)."""
    program = tl.program_id(0)
    channel = tl.arange(0, C_PAD)
    real = channel < C
    factor = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    total_weight = tl.zeros([ROWS, C_PAD], tl.float32)
    total_bias = tl.zeros([ROWS, C_PAD], tl.float32)
    first = program.to(tl.int64) * rows_per_program
    for begin in range(0, rows_per_program, ROWS):
        row = first + begin + tl.arange(0, ROWS)
        there = row < rows
        exists = there[:, None] & real[None, :]
        values = tl.load(x + row[:, None] * x_p + channel[None, :], mask=exists, other=0.0).to(tl.float32)
        grads = tl.load(grad + row[:, None] * grad_p + channel[None, :], mask=exists, other=0.0).to(tl.float32)
        mean = tl.load(means + row, mask=there, other=0.0)[:, None]
        scale = tl.load(scales + row, mask=there, other=0.0)[:, None]
        # Rows that do not exist have a scale of zero, channels that do not are masked: both add nothing to any sum.
        normed = tl.where(real[None, :], (values - mean) * scale, 0.0)
        total_weight += grads * normed
        total_bias += grads
        scaled = grads * factor
        along = tl.sum(scaled * normed, 1)[:, None] / C
        average = tl.sum(scaled, 1)[:, None] / C
        result = (scaled - normed * along - average) * scale
        tl.store(grad_x + row[:, None] * C + channel[None, :], result.to(grad_x.dtype.element_ty), mask=exists)
    tl.store(grad_weight + program * C + channel, tl.sum(total_weight, 0), mask=real)
    tl.store(grad_bias + program * C + channel, tl.sum(total_bias, 0), mask=real)
