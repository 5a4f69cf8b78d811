"""The rotation of bfloat16 on CPUs: one pass over memory, four pairs of channels at a time, computed in float32.

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
    load_half,
    pick_lanes,
    procedure,
    sign_lanes,
    store_half,
    take_number,
)

_FIRST, _SECOND, _SWAPPED = (0, 0, 2, 2, 4, 4, 6, 6), (1, 1, 3, 3, 5, 5, 7, 7), (1, 0, 3, 2, 5, 4, 7, 6)


@intrinsic
def _rotate(typing, x, table, out, heads, vectors):  # type: ignore[no-untyped-def]
    """Rotate ``heads`` heads of ``vectors`` vectors each of one position."""
    signature, wrap = procedure(5)

    def emit(b, x, table, out, heads, vectors):  # type: ignore[no-untyped-def]
        outer = Loop(b, heads, [x, out])
        inner = Loop(b, vectors, [*outer.values, table])
        at, to, angle = inner.values
        values, turns = load_half(b, at), load(b, angle)
        sines = sign_lanes(b, pick_lanes(b, turns, _SECOND))
        turned = b.fmul(pick_lanes(b, values, _SWAPPED), sines)
        store_half(b, fma(b, values, pick_lanes(b, turns, _FIRST), turned), to)
        half = BYTES // 2
        at, to, _ = inner.close([ahead(b, at, half), ahead(b, to, half), ahead(b, angle, BYTES)])
        outer.close([at, to])

    return signature, wrap(emit)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.rotate``."""
    counters, items, positions, run, image, heads, vectors = p[2], p[3], p[4], p[5], p[6], p[7], p[8]
    x, x_step, table, table_step, out, out_step = p[9], p[10], p[11], p[12], p[13], p[14]
    while True:
        item = take_number(counters)
        if item >= items:
            return
        for i in range(item * run, min(positions, (item + 1) * run)):
            _rotate(x + i * x_step, table + (i % image) * table_step, out + i * out_step, heads, vectors)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
