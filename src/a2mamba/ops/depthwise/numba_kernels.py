"""The gradient of weight and bias of a depthwise convolution on CPUs, 3 x 3 or 5 x 5, in one pass over memory.

Every tap is a sum over all positions of the gradient times the map shifted by the tap. A thread owns some channels of
one image. Of these it keeps as many rows of the map as the kernel has, with zeros around them, and one row of the
gradient, as float32, one vector of channels after the other: the taps are then sums of products of what lies side by
side, in registers. The map may be GELU of what is read.

:data:`KERNEL` is the address of the compiled function; ``numba_impl.py`` says what its argument holds.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from a2mamba.ops.numba_vectors import (
    BYTES,
    LANES,
    Loop,
    ahead,
    fill,
    fingerprint,
    fma,
    gelu,
    intrinsic,
    kernel,
    load,
    procedure,
    reader,
    store,
    take_number,
)


def _copy_row(half: bool, with_gelu: bool) -> Any:
    """Return an intrinsic that writes one vector of each of ``positions`` positions, or GELU of it."""
    read, _ = reader(half)

    @intrinsic
    def copy_row(typing, source, source_step, target, positions):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(4)

        def emit(b, source, source_step, target, positions):  # type: ignore[no-untyped-def]
            loop = Loop(b, positions, [source, target])
            source, target = loop.values
            value = read(b, source)
            store(b, gelu(b, value, half) if with_gelu else value, target)
            loop.close([b.add(source, source_step), ahead(b, target, BYTES)])

        return signature, wrap(emit)

    return copy_row


def _add_taps(size: int, count: int, with_bias: bool) -> Any:
    """Return an intrinsic that adds a row of products to the taps of ``count`` rows of a kernel ``size`` wide.

    Two rows of five or three of three have ten or nine sums: enough to hide what a sum takes, and few enough for
    sixteen registers. Of its three rows it reads ``count``. ``with_bias``: behind their sums is that of the gradient.
    """

    @intrinsic
    def add_taps(typing, grad, first, second, third, sums, positions):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(6)

        def emit(b, grad, first, second, third, sums, positions):  # type: ignore[no-untyped-def]
            places = [ahead(b, sums, BYTES * i) for i in range(size * count + with_bias)]
            loop = Loop(b, positions, [grad, first, second, third, *(load(b, place) for place in places)])
            grad, *rows = loop.values[:4]
            slope = load(b, grad)
            added = [
                fma(b, slope, load(b, ahead(b, rows[i // size], BYTES * (i % size))), total)
                for i, total in enumerate(loop.values[4 : 4 + size * count])
            ]
            added += [b.fadd(slope, total) for total in loop.values[4 + size * count :]]
            following = [ahead(b, address, BYTES) for address in (grad, *rows)]
            for place, total in zip(places, loop.close([*following, *added])[4:], strict=True):
                store(b, total, place)

        return signature, wrap(emit)

    return add_taps


_copy_float, _copy_half = (_copy_row(half, with_gelu=False) for half in (False, True))
_copy_gelu_float, _copy_gelu_half = (_copy_row(half, with_gelu=True) for half in (False, True))
_add_three_of_three = _add_taps(3, 3, with_bias=True)
_add_two_of_five, _add_last_of_five = _add_taps(5, 2, with_bias=False), _add_taps(5, 1, with_bias=True)


@intrinsic
def _write_sums(typing, sums, target, target_step, count):  # type: ignore[no-untyped-def]
    """Write ``count`` sums of eight channels, ``target_step`` bytes apart."""
    signature, wrap = procedure(4)

    def emit(b, sums, target, target_step, count):  # type: ignore[no-untyped-def]
        loop = Loop(b, count, [sums, target])
        sums, target = loop.values
        store(b, load(b, sums), target)
        loop.close([ahead(b, sums, BYTES), b.add(target, target_step)])

    return signature, wrap(emit)


@njit(error_model="numpy")
def _read_row(half, with_gelu, source, source_step, target, target_step, columns, vectors):  # type: ignore[no-untyped-def]
    """Copy a row of positions, one vector of channels after the other, ``target_step`` bytes apart."""
    for vector in range(vectors):
        to = target + target_step * vector
        if with_gelu:
            if half:
                _copy_gelu_half(source + 2 * LANES * vector, source_step, to, columns)
            else:
                _copy_gelu_float(source + 4 * LANES * vector, source_step, to, columns)
        elif half:
            _copy_half(source + 2 * LANES * vector, source_step, to, columns)
        else:
            _copy_float(source + 4 * LANES * vector, source_step, to, columns)


@njit(error_model="numpy")
def _row_of(y, tap, size, rows, apart):  # type: ignore[no-untyped-def]
    """Return where the row of the map lies that a row of taps multiplies for row ``y`` of the gradient."""
    return rows + (y - size // 2 + tap + size) % size * apart


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.py``."""
    counters, items, height, columns, channels, item_vectors = p[2], p[3], p[4], p[5], p[6], p[7]
    x, x_batch, x_row, x_step = p[8], p[9], p[10], p[11]
    grad, grad_batch, grad_row, grad_step = p[12], p[13], p[14], p[15]
    out, scratch, scratch_size, half, size, with_gelu = p[16], p[17], p[18], p[19], p[20], p[21]
    number = 2 if half else 4
    sum_count = size * size + 1  # taps and bias

    # This thread's own memory: rows of the map, one of the gradient, the sums.
    line = BYTES * (columns + size - 1)
    rows = scratch + scratch_size * take_number(counters + 8)
    slopes = rows + size * item_vectors * line
    sums = slopes + item_vectors * BYTES * columns
    margin = size // 2
    fill(rows, size * item_vectors * (columns + size - 1))
    spans = (channels // LANES + item_vectors - 1) // item_vectors
    while True:
        item = take_number(counters)
        if item >= items:
            return
        image, first = item // spans, item % spans * item_vectors
        vectors = min(item_vectors, channels // LANES - first)
        at_x = x + image * x_batch + number * LANES * first
        at_grad = grad + image * grad_batch + number * LANES * first
        fill(sums, vectors * sum_count)
        for below in range(-margin, height + margin):
            row = rows + (below + size) % size * item_vectors * line
            if 0 <= below < height:
                target = row + BYTES * margin
                _read_row(half, with_gelu, at_x + below * x_row, x_step, target, line, columns, vectors)
            else:
                fill(row, vectors * (columns + size - 1))
            y = below - margin
            if y < 0:
                continue
            _read_row(half, False, at_grad + y * grad_row, grad_step, slopes, BYTES * columns, columns, vectors)
            for vector in range(vectors):
                slope, total = slopes + BYTES * columns * vector, sums + BYTES * sum_count * vector
                mine, apart = rows + vector * line, item_vectors * line
                a, b, c = (
                    _row_of(y, 0, size, mine, apart),
                    _row_of(y, 1, size, mine, apart),
                    _row_of(y, 2, size, mine, apart),
                )
                if size == 3:
                    _add_three_of_three(slope, a, b, c, total, columns)
                else:
                    d, e = _row_of(y, 3, size, mine, apart), _row_of(y, 4, size, mine, apart)
                    _add_two_of_five(slope, a, b, b, total, columns)
                    _add_two_of_five(slope, c, d, d, total + BYTES * 2 * size, columns)
                    _add_last_of_five(slope, e, e, e, total + BYTES * 4 * size, columns)
        for vector in range(vectors):
            target = out + 4 * (image * sum_count * channels + LANES * (first + vector))
            _write_sums(sums + BYTES * sum_count * vector, target, 4 * channels, sum_count)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
