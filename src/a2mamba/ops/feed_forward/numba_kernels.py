"""A residual depthwise convolution on CPUs, GELU before it, in one pass over memory, eight channels at a time.

The gradient of its map is the convolution with the kernel turned about, times the derivative of GELU where that was.

A thread reads a row of the map, and computes GELU of it, when the convolution first needs it, into a ring of three rows
of its own: what lies between the two never leaves the cache.

:data:`KERNEL` is the address of the compiled function; ``numba_impl.py`` says what its argument holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from a2mamba.ops.numba_vectors import (
    BYTES,
    LANES,
    Loop,
    ahead,
    constant,
    fill,
    fingerprint,
    fma,
    gelu,
    gelu_slope,
    integer,
    intrinsic,
    kernel,
    load,
    load_every,
    procedure,
    reader,
    store,
    take_number,
    writer,
)

TOGETHER = 4
"""Neighboring positions that share what is loaded of the weights and of each other's neighbors."""


def _activation(with_gelu: bool, half: bool) -> Callable[..., Any]:
    """Return an intrinsic that writes ``positions`` positions of ``vectors`` vectors, or GELU of them, as float32."""
    read, size = reader(half)

    @intrinsic
    def activate(typing, source, source_step, target, target_step, positions, vectors):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(6)

        def emit(b, source, source_step, target, target_step, positions, vectors):  # type: ignore[no-untyped-def]
            outer = Loop(b, positions, [source, target])
            inner = Loop(b, vectors, outer.values)
            x, to = inner.values
            value = read(b, x)
            store(b, gelu(b, value, half) if with_gelu else value, to)
            inner.close([ahead(b, x, size), ahead(b, to, BYTES)])
            source, target = outer.values
            outer.close([b.add(source, source_step), b.add(target, target_step)])

        return signature, wrap(emit)

    return activate


def _slope_product(half: bool) -> Callable[..., Any]:
    """Return an intrinsic that multiplies positions of ``out`` by the derivative of GELU at those of ``source``."""
    read, size = reader(half)
    write, _ = writer(half)

    @intrinsic
    def multiply(typing, source, source_step, out, out_step, positions, vectors):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(6)

        def emit(b, source, source_step, out, out_step, positions, vectors):  # type: ignore[no-untyped-def]
            outer = Loop(b, positions, [source, out])
            inner = Loop(b, vectors, outer.values)
            x, to = inner.values
            write(b, b.fmul(read(b, to), gelu_slope(b, read(b, x), half)), to)
            inner.close([ahead(b, x, size), ahead(b, to, size)])
            source, out = outer.values
            outer.close([b.add(source, source_step), b.add(out, out_step)])

        return signature, wrap(emit)

    return multiply


@intrinsic
def lay_taps(typing, weight, bias, target, step, vectors):  # type: ignore[no-untyped-def]
    """Write kernels (C, 1, 3, 3) with the residual in their middle as (3 * 3, C), then their bias, as float32.

    Every worker does so for itself: it takes less time than one call of PyTorch, and nobody has to wait.
    """
    signature, wrap = procedure(5)

    def emit(b, weight, bias, target, step, vectors):  # type: ignore[no-untyped-def]
        loop = Loop(b, vectors, [weight, bias, target])
        at, more, to = loop.values
        for tap in range(9):
            value = load_every(b, ahead(b, at, 4 * tap), 4 * 9)
            value = b.fadd(value, constant(1.0)) if tap == 4 else value
            store(b, value, b.add(to, b.mul(step, integer(tap))))
        store(b, load(b, more), b.add(to, b.mul(step, integer(9))))
        loop.close([ahead(b, at, 9 * BYTES), ahead(b, more, BYTES), ahead(b, to, BYTES)])

    return signature, wrap(emit)


def _convolve(count: int, half: bool) -> Callable[..., Any]:
    """Return an intrinsic that writes ``count`` neighboring positions of a 3 x 3 depthwise convolution.

    ``above``, ``here``, ``below``: the position left of the first, in three rows of positions ``step`` bytes apart.
    ``weights``: nine times all channels, then the bias, ``step`` bytes apart too. ``half``: writes bfloat16.
    """
    write, size = writer(half)

    @intrinsic
    def convolve(typing, above, here, below, step, weights, out, out_step, vectors):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(8)

        def emit(b, above, here, below, step, weights, out, out_step, vectors):  # type: ignore[no-untyped-def]
            loop = Loop(b, vectors, [above, here, below, weights, out])
            *rows, weight, to = loop.values
            sums = [load(b, b.add(weight, b.mul(step, integer(9))))] * count
            for i, row in enumerate(rows):
                taps = [load(b, b.add(weight, b.mul(step, integer(3 * i + j)))) for j in range(3)]
                for column in range(count + 2):
                    value = load(b, b.add(row, b.mul(step, integer(column))))
                    for j, tap in enumerate(taps):
                        if 0 <= column - j < count:
                            sums[column - j] = fma(b, tap, value, sums[column - j])
            for i, total in enumerate(sums):
                write(b, total, b.add(to, b.mul(out_step, integer(i))))
            loop.close([*(ahead(b, address, BYTES) for address in (*rows, weight)), ahead(b, to, size)])

        return signature, wrap(emit)

    return convolve


_gelu_row, _gelu_row_half = (_activation(True, half) for half in (False, True))
_row, _row_half = (_activation(False, half) for half in (False, True))
_multiply_by_slope, _multiply_by_slope_half = (_slope_product(half) for half in (False, True))
_convolve_one, _convolve_one_half = (_convolve(1, half) for half in (False, True))
_convolve_four, _convolve_four_half = (_convolve(TOGETHER, half) for half in (False, True))


@njit(error_model="numpy")
def read_row(with_gelu, half, source, source_step, target, target_step, positions, vectors):  # type: ignore[no-untyped-def]
    """Write a row of positions as float32, or GELU of them; ``half`` if they are bfloat16."""
    if with_gelu:
        if half:
            _gelu_row_half(source, source_step, target, target_step, positions, vectors)
        else:
            _gelu_row(source, source_step, target, target_step, positions, vectors)
    elif half:
        _row_half(source, source_step, target, target_step, positions, vectors)
    else:
        _row(source, source_step, target, target_step, positions, vectors)


@njit(error_model="numpy")
def write_row(half, above, here, below, step, weights, out, out_step, columns, vectors):  # type: ignore[no-untyped-def]
    """Write a row of the convolution; three rows of positions ``step`` bytes apart, from left of the first on."""
    i = 0
    while i < columns:
        at, to = step * i, out + out_step * i
        if columns - i >= TOGETHER:
            if half:
                _convolve_four_half(above + at, here + at, below + at, step, weights, to, out_step, vectors)
            else:
                _convolve_four(above + at, here + at, below + at, step, weights, to, out_step, vectors)
            i += TOGETHER
        else:
            if half:
                _convolve_one_half(above + at, here + at, below + at, step, weights, to, out_step, vectors)
            else:
                _convolve_one(above + at, here + at, below + at, step, weights, to, out_step, vectors)
            i += 1


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl._run``."""
    counters, items, chunks, height, columns, channels = p[2], p[3], p[4], p[5], p[6], p[7]
    weight, bias, scratch, scratch_size = p[8], p[9], p[10], p[11]
    x, x_batch, x_row, x_step = p[12], p[13], p[14], p[15]
    out, out_batch, out_row, out_step = p[16], p[17], p[18], p[19]
    with_gelu, half = p[20], p[21]
    before, before_batch, before_row, before_step = p[22], p[23], p[24], p[25]  # what GELU was of, or zeros
    step, vectors = 4 * channels, channels // LANES
    # This thread's own memory: taps and bias, then three rows.
    weights = scratch + scratch_size * take_number(counters + 8)
    mine = weights + 10 * step
    lay_taps(weight, bias, weights, step, vectors)
    line = step * (columns + 2)
    while True:
        item = take_number(counters)
        if item >= items:
            return
        image, chunk = item // chunks, item % chunks
        first, last = height * chunk // chunks, height * (chunk + 1) // chunks
        for y in range(first - 1, last + 1):
            row = mine + line * ((y + 3) % 3)
            if y < 0 or y >= height:
                fill(row, (columns + 2) * vectors)
            else:
                fill(row, vectors)
                source = x + image * x_batch + y * x_row
                read_row(with_gelu, half, source, x_step, row + step, step, columns, vectors)
                fill(row + step * (columns + 1), vectors)
            if y <= first:
                continue
            above, here = mine + line * ((y + 1) % 3), mine + line * ((y + 2) % 3)
            to = out + image * out_batch + (y - 1) * out_row
            write_row(half, above, here, row, step, weights, to, out_step, columns, vectors)
            if before:
                source = before + image * before_batch + (y - 1) * before_row
                if half:
                    _multiply_by_slope_half(source, before_step, to, out_step, columns, vectors)
                else:
                    _multiply_by_slope(source, before_step, to, out_step, columns, vectors)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
