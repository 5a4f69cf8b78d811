"""The gradient of a 5 x 5 depthwise convolution's weight and bias on CPUs, in one pass over map and gradient.

Every tap is a sum over all positions of the gradient times the map shifted by the tap. A thread owns some channels of
one image. Of these it keeps five rows of the map, with zeros around them, and one row of the gradient, as float32, one
vector of channels after the other: the taps are then sums of products of what lies side by side, in registers.

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
    intrinsic,
    kernel,
    load,
    procedure,
    reader,
    store,
    take_number,
)

SIZE = 5
"""Of the kernel, an axis."""

SUMS = SIZE * SIZE + 1
"""Vectors of sums of eight channels: the taps and the bias."""


def _copy_row(half: bool) -> Any:
    """Return an intrinsic that writes one vector of each of ``positions`` positions and adds them to ``total``."""
    read, _ = reader(half)

    @intrinsic
    def copy_row(typing, source, source_step, target, positions, total):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(5)

        def emit(b, source, source_step, target, positions, total):  # type: ignore[no-untyped-def]
            loop = Loop(b, positions, [source, target, load(b, total)])
            source, target, added = loop.values
            value = read(b, source)
            store(b, value, target)
            steps = [b.add(source, source_step), ahead(b, target, BYTES)]
            store(b, loop.close([*steps, b.fadd(added, value)])[-1], total)

        return signature, wrap(emit)

    return copy_row


def _add_taps(count: int) -> Any:
    """Return an intrinsic that adds a row of products to the taps of ``count`` rows of the kernel.

    Two rows at a time have ten sums: enough to hide what a sum takes, and few enough for sixteen registers.
    """

    @intrinsic
    def add_taps(typing, grad, row, next_row, sums, positions):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(5)

        def emit(b, grad, row, next_row, sums, positions):  # type: ignore[no-untyped-def]
            places = [ahead(b, sums, BYTES * i) for i in range(SIZE * count)]
            loop = Loop(b, positions, [grad, row, next_row, *(load(b, place) for place in places)])
            grad, *rows = loop.values[:3]
            slope = load(b, grad)
            added = [
                fma(b, slope, load(b, ahead(b, rows[i // SIZE], BYTES * (i % SIZE))), total)
                for i, total in enumerate(loop.values[3:])
            ]
            following = [ahead(b, address, BYTES) for address in (grad, *rows)]
            for place, total in zip(places, loop.close([*following, *added])[3:], strict=True):
                store(b, total, place)

        return signature, wrap(emit)

    return add_taps


_copy_row_float, _copy_row_half = _copy_row(half=False), _copy_row(half=True)
_add_one_row, _add_two_rows = _add_taps(1), _add_taps(2)


@intrinsic
def _write_sums(typing, sums, target, target_step):  # type: ignore[no-untyped-def]
    """Write the sums of eight channels, ``target_step`` bytes apart."""
    signature, wrap = procedure(3)

    def emit(b, sums, target, target_step):  # type: ignore[no-untyped-def]
        for i in range(SUMS):
            store(b, load(b, ahead(b, sums, BYTES * i)), target)
            target = b.add(target, target_step)

    return signature, wrap(emit)


@njit(error_model="numpy")
def _read_rows(half, source, source_step, target, target_step, columns, vectors, totals, totals_step):  # type: ignore[no-untyped-def]
    """Copy a row of positions, one vector of channels after the other, ``target_step`` bytes apart."""
    for vector in range(vectors):
        to, total = target + target_step * vector, totals + totals_step * vector
        if half:
            _copy_row_half(source + 2 * LANES * vector, source_step, to, columns, total)
        else:
            _copy_row_float(source + 4 * LANES * vector, source_step, to, columns, total)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.py``."""
    counters, items, height, columns, channels, item_vectors = p[2], p[3], p[4], p[5], p[6], p[7]
    x, x_batch, x_row, x_step = p[8], p[9], p[10], p[11]
    grad, grad_batch, grad_row, grad_step = p[12], p[13], p[14], p[15]
    out, scratch, scratch_size, half = p[16], p[17], p[18], p[19]
    number = 2 if half else 4

    # This thread's own memory: five rows of the map, one of the gradient, the sums, one that nobody reads.
    line = BYTES * (columns + SIZE - 1)
    rows = scratch + scratch_size * take_number(counters + 8)
    slopes = rows + SIZE * item_vectors * line
    sums = slopes + item_vectors * BYTES * columns
    spare = sums + item_vectors * SUMS * BYTES
    margin = SIZE // 2
    fill(rows, SIZE * item_vectors * (columns + SIZE - 1))
    fill(spare, 1)
    spans = (channels // LANES + item_vectors - 1) // item_vectors
    while True:
        item = take_number(counters)
        if item >= items:
            return
        image, first = item // spans, item % spans * item_vectors
        vectors = min(item_vectors, channels // LANES - first)
        at_x = x + image * x_batch + number * LANES * first
        at_grad = grad + image * grad_batch + number * LANES * first
        fill(sums, vectors * SUMS)
        for below in range(-margin, height + margin):
            row = rows + (below + SIZE) % SIZE * item_vectors * line
            if 0 <= below < height:
                target = row + BYTES * margin
                _read_rows(half, at_x + below * x_row, x_step, target, line, columns, vectors, spare, 0)
            else:
                fill(row, vectors * (columns + SIZE - 1))
            y = below - margin
            if y < 0:
                continue
            bias = sums + BYTES * (SUMS - 1)
            _read_rows(
                half, at_grad + y * grad_row, grad_step, slopes, BYTES * columns, columns, vectors, bias, BYTES * SUMS
            )
            for vector in range(vectors):
                slope, total = slopes + BYTES * columns * vector, sums + BYTES * SUMS * vector
                for i in range(0, SIZE, 2):
                    here = rows + ((y - margin + i + SIZE) % SIZE * item_vectors + vector) * line
                    following = rows + ((y - margin + i + 1 + SIZE) % SIZE * item_vectors + vector) * line
                    if i + 1 < SIZE:
                        _add_two_rows(slope, here, following, total + BYTES * SIZE * i, columns)
                    else:
                        _add_one_row(slope, here, here, total + BYTES * SIZE * i, columns)
        for vector in range(vectors):
            target = out + 4 * (image * SUMS * channels + LANES * (first + vector))
            _write_sums(sums + BYTES * SUMS * vector, target, 4 * channels)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
