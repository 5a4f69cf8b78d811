"""Triton kernel of the rotary position encoding: one reading of the map, float32 inside.

A program owns some *rows*, which are positions of the batch of maps, with all their channels.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "positions"])
def rotate_kernel(
    x, table, out, rows, positions, x_p, C: tl.constexpr, C_PAD: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr
):
    """Fill out (rows, C) from x, ``x_p`` from position to position, and table (positions, D), cosine before sine."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, C_PAD)[None, :]
    exists = (row < rows) & (channel < C)
    values = tl.load(x + row * x_p + channel, mask=exists, other=0.0).to(tl.float32)
    rotations = tl.load(table + (row % positions) * D + channel % D, mask=exists, other=0.0).to(tl.float32)
    a, b = tl.split(tl.reshape(values, [ROWS, C_PAD // 2, 2]))
    cos, sin = tl.split(tl.reshape(rotations, [ROWS, C_PAD // 2, 2]))
    rotated = tl.reshape(tl.join(a * cos - b * sin, b * cos + a * sin), [ROWS, C_PAD])
    tl.store(out + row * C + channel, rotated.to(out.dtype.element_ty), mask=exists)
