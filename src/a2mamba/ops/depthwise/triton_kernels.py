"""Triton kernel of the depthwise convolution: bias and residual in the pass that convolves, float32 inside.

A program owns T_Y x T_X positions of one image and BLOCK_C of its channels. What its taps read twice lies in the cache.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["height", "width", "tiles_y", "tiles_x", "blocks"])
def depthwise_kernel(
    x, weight, bias, out, height, width, tiles_y, tiles_x, blocks, x_p,
    C: tl.constexpr, BLOCK_C: tl.constexpr, K: tl.constexpr, T_Y: tl.constexpr, T_X: tl.constexpr,
    RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Fill out (B, H, W, C) from x, ``x_p`` from position to position, and weight (K * K, C)."""
    program = tl.program_id(0)
    block = program % blocks
    rest = program // blocks
    tile_x = rest % tiles_x
    rest = rest // tiles_x
    image = (rest // tiles_y).to(tl.int64)
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
    real = channel < C
    place = tl.arange(0, T_Y * T_X)
    row, column = (rest % tiles_y) * T_Y + place // T_X, tile_x * T_X + place % T_X
    x += image * height * width * x_p
    out += image * height * width * C
    shift = tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)
    result = tl.zeros([T_Y * T_X, BLOCK_C], tl.float32) + shift[None, :]
    for i in tl.static_range(K):
        for j in tl.static_range(K):
            y, z = row + (i - K // 2), column + (j - K // 2)
            inside = (y >= 0) & (y < height) & (z >= 0) & (z < width)
            offset = (y * width + z)[:, None] * x_p + channel[None, :]
            values = tl.load(x + offset, mask=inside[:, None] & real[None, :], other=0.0).to(tl.float32)
            factor = tl.load(weight + (i * K + j) * C + channel, mask=real, other=0.0).to(tl.float32)
            result += values * factor[None, :]
            if RESIDUAL and i == K // 2 and j == K // 2:
                result += values
    exists = ((row < height) & (column < width))[:, None] & real[None, :]
    offset = (row * width + column)[:, None] * C + channel[None, :]
    tl.store(out + offset, result.to(out.dtype.element_ty), mask=exists)
