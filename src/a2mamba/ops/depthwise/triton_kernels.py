"""Triton kernel of the depthwise convolution: bias, residual and SiLU in the pass that convolves, float32 inside.

A *vector* is VEC channels of one position that lie side by side. A thread owns the vectors of ROWS rows of a column:
what it reads is added to all rows that it belongs to. So an output takes K (ROWS + K - 1) / ROWS readings instead of
K K, and only the factors of one column of the kernel are held at a time. What neighboring threads read again lies in
the first cache. Threads are numbered through rows, columns and images, so that few idle on maps of any size.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# Tuples of Triton's tensors grow, too.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False
# mypy: disable-error-code="assignment, var-annotated"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["height", "width", "strips", "blocks", "columns", "x_p"])
def depthwise_kernel(
    x, weight, bias, out, height, width, strips, blocks, columns, x_p,
    C: tl.constexpr, VEC: tl.constexpr, GROUP: tl.constexpr, THREADS: tl.constexpr, ALIGN: tl.constexpr,
    K: tl.constexpr, ROWS: tl.constexpr, RESIDUAL: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """Fill out (B, H, W, C) from x, ``x_p`` from position to position, and weight (K * K, C).

    A program owns GROUP vectors of channels of some of the ``columns`` of all images, which are ROWS rows high.
    """
    block = tl.program_id(0) % blocks
    index = (tl.program_id(0) // blocks) * THREADS + tl.arange(0, THREADS)
    vector, place = block * GROUP + index % GROUP, index // GROUP
    column, rest = place % width, place // width
    first, image = (rest % strips) * ROWS, (rest // strips).to(tl.int64)
    lane = tl.arange(0, VEC)[None, :]
    channel = vector[:, None] * VEC + lane
    position = (image * height + first) * width + column
    real = (place < columns) & (vector * VEC < C)
    # Compared one by one, numbers of a vector could not be read at once.
    full = channel < C if C % VEC else lane < VEC
    at = x + tl.multiple_of(position * x_p, ALIGN)[:, None] + channel
    factors = weight + channel
    shift = tl.load(bias + channel, mask=real[:, None] & full, other=0.0).to(tl.float32)
    results = ()
    for _ in tl.static_range(ROWS):
        results += (shift,)
    for j in range(K):
        beside = column + (j - K // 2)
        read = real & (beside >= 0) & (beside < width)
        taps = ()
        for i in tl.static_range(K):
            tap = tl.load(factors + (i * K + j) * C, mask=real[:, None] & full, other=0.0).to(tl.float32)
            if RESIDUAL and i == K // 2:
                tap += tl.where(j == K // 2, 1.0, 0.0)
            taps += (tap,)
        for r in tl.static_range(ROWS + K - 1):
            row = first + (r - K // 2)
            inside = read & (row >= 0) & (row < height)
            offset = tl.multiple_of(((r - K // 2) * width + (j - K // 2)) * x_p, ALIGN)
            values = tl.load(at + offset, mask=inside[:, None] & full, other=0.0).to(tl.float32)
            added = ()
            for t in tl.static_range(ROWS):
                added += (results[t] + values * taps[r - t] if t <= r and r - t < K else results[t],)
            results = added
    to = out + (position * C)[:, None] + channel
    for t in tl.static_range(ROWS):
        exists = real & (first + t < height)
        result = results[t]
        if SILU:
            result *= tl.sigmoid(result)
        tl.store(to + t * width * C, result.to(out.dtype.element_ty), mask=exists[:, None] & full)
