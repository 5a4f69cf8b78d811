"""GELU and the depthwise convolution after it on CPUs, in one pass over memory, eight channels at a time.

A thread computes GELU of a row of the map when the convolution first needs it, into a ring of three rows of its own:
what lies between the two never leaves the cache.

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
    fill,
    fingerprint,
    fma,
    gelu,
    integer,
    intrinsic,
    kernel,
    load,
    procedure,
    store,
    take_number,
)

TOGETHER = 4
"""Neighboring positions that share what is loaded of the weights and of each other's neighbors."""


@intrinsic
def _gelu_row(typing, source, source_step, target, target_step, positions, vectors):  # type: ignore[no-untyped-def]
    """Write GELU of ``positions`` positions of ``vectors`` vectors."""
    signature, wrap = procedure(6)

    def emit(b, source, source_step, target, target_step, positions, vectors):  # type: ignore[no-untyped-def]
        outer = Loop(b, positions, [source, target])
        inner = Loop(b, vectors, outer.values)
        x, to = inner.values
        store(b, gelu(b, load(b, x)), to)
        inner.close([ahead(b, x, BYTES), ahead(b, to, BYTES)])
        source, target = outer.values
        outer.close([b.add(source, source_step), b.add(target, target_step)])

    return signature, wrap(emit)


def _convolve(count: int) -> Callable[..., Any]:
    """Return an intrinsic that writes ``count`` neighboring positions of a 3 x 3 depthwise convolution.

    ``above``, ``here``, ``below``: the position left of the first, in three rows of positions ``step`` bytes apart.
    ``weights``: nine times all channels, then the bias, ``step`` bytes apart too.
    """

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
                store(b, total, b.add(to, b.mul(out_step, integer(i))))
            loop.close([ahead(b, address, BYTES) for address in (*rows, weight, to)])

        return signature, wrap(emit)

    return convolve


_convolve_one, _convolve_four = _convolve(1), _convolve(TOGETHER)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.forward``."""
    counters, items, chunks, height, columns, channels = p[2], p[3], p[4], p[5], p[6], p[7]
    weights, rings, ring_size = p[8], p[9], p[10]
    x, x_batch, x_row, x_step = p[11], p[12], p[13], p[14]
    out, out_batch, out_row, out_step = p[15], p[16], p[17], p[18]
    mine = rings + ring_size * take_number(counters + 8)
    step, vectors = 4 * channels, channels // LANES
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
                _gelu_row(x + image * x_batch + y * x_row, x_step, row + step, step, columns, vectors)
                fill(row + step * (columns + 1), vectors)
            if y <= first:
                continue
            above, here = mine + line * ((y + 1) % 3), mine + line * ((y + 2) % 3)
            to = out + image * out_batch + (y - 1) * out_row
            i = 0
            while i < columns:
                at = step * i
                if columns - i >= TOGETHER:
                    _convolve_four(above + at, here + at, row + at, step, weights, to + out_step * i, out_step, vectors)
                    i += TOGETHER
                else:
                    _convolve_one(above + at, here + at, row + at, step, weights, to + out_step * i, out_step, vectors)
                    i += 1


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
