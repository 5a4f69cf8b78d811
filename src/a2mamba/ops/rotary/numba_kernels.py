"""The rotation on CPUs: one pass over memory, four pairs of channels at a time, computed in float32.

:data:`KERNEL` is the address of the compiled function; ``numba_impl.py`` says what its argument holds. Threads take
runs of positions.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from a2mamba.ops.numba_vectors import (
    BYTES,
    Loop,
    ahead,
    fingerprint,
    fma,
    intrinsic,
    kernel,
    load,
    pick_lanes,
    procedure,
    reader,
    sign_lanes,
    take_number,
    writer,
)

_FIRST, _SECOND, _SWAPPED = (0, 0, 2, 2, 4, 4, 6, 6), (1, 1, 3, 3, 5, 5, 7, 7), (1, 0, 3, 2, 5, 4, 7, 6)


def _rotate(half: bool) -> Any:
    """Return an intrinsic that rotates ``heads`` heads of ``vectors`` vectors each of one position."""
    read, size = reader(half)
    write, _ = writer(half)

    @intrinsic
    def rotate(typing, x, table, out, heads, vectors):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(5)

        def emit(b, x, table, out, heads, vectors):  # type: ignore[no-untyped-def]
            outer = Loop(b, heads, [x, out])
            inner = Loop(b, vectors, [*outer.values, table])
            at, to, angle = inner.values
            values, turns = read(b, at), load(b, angle)
            sines = sign_lanes(b, pick_lanes(b, turns, _SECOND))
            turned = b.fmul(pick_lanes(b, values, _SWAPPED), sines)
            write(b, fma(b, values, pick_lanes(b, turns, _FIRST), turned), to)
            at, to, _ = inner.close([ahead(b, at, size), ahead(b, to, size), ahead(b, angle, BYTES)])
            outer.close([at, to])

        return signature, wrap(emit)

    return rotate


_rotate_float, _rotate_half = _rotate(half=False), _rotate(half=True)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.rotate``."""
    counters, items, positions, run, image, heads, vectors = p[2], p[3], p[4], p[5], p[6], p[7], p[8]
    x, x_step, table, table_step, out, out_step, half = p[9], p[10], p[11], p[12], p[13], p[14], p[15]
    while True:
        item = take_number(counters)
        if item >= items:
            return
        for i in range(item * run, min(positions, (item + 1) * run)):
            at, angles, to = x + i * x_step, table + (i % image) * table_step, out + i * out_step
            if half:
                _rotate_half(at, angles, to, heads, vectors)
            else:
                _rotate_float(at, angles, to, heads, vectors)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
