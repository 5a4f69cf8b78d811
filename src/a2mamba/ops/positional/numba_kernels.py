"""The positional convolution of a block on CPUs: the sum before it, the norm behind it, one pass over memory.

As ``feed_forward/numba_kernels.py``, whose rows these are: a row of the sum is computed when the convolution first
needs it, and a row of the convolution is normalized while the cache holds it.

:data:`KERNEL` is the address of the compiled function; ``numba_impl.py`` says what its argument holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from a2mamba.ops.feed_forward import numba_kernels as feed_forward
from a2mamba.ops.feed_forward.numba_kernels import lay_taps, read_row, write_row
from a2mamba.ops.numba_vectors import (
    BYTES,
    LANES,
    Loop,
    ahead,
    constant,
    copy,
    fill,
    fingerprint,
    fma,
    integer,
    intrinsic,
    kernel,
    lane_sum,
    load,
    load_splat,
    procedure,
    reader,
    square_root,
    store,
    take_number,
    writer,
)

TOGETHER = 4
"""Positions that are normalized at once, because every step of a norm waits for the one before."""


def _sum(x_half: bool, branch_half: bool) -> Callable[..., Any]:
    """Return an intrinsic that writes branch + (weight * x + bias) of ``positions`` positions as float32."""
    read_x, x_bytes = reader(x_half)
    read_branch, branch_bytes = reader(branch_half)

    @intrinsic
    def add_row(typing, x, x_step, branch, branch_step, affine, target, target_step, positions, vectors):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(9)

        def emit(b, x, x_step, branch, branch_step, affine, target, target_step, positions, vectors):  # type: ignore[no-untyped-def]
            outer = Loop(b, positions, [x, branch, target])
            inner = Loop(b, vectors, [*outer.values, affine])
            at, more, to, weight = inner.values
            scaled = fma(b, load(b, weight), read_x(b, at), load(b, b.add(weight, target_step)))
            store(b, b.fadd(scaled, read_branch(b, more)), to)
            sizes = (x_bytes, branch_bytes, BYTES, BYTES)
            inner.close([ahead(b, at, size) for at, size in zip(inner.values, sizes, strict=True)])
            steps = (x_step, branch_step, target_step)
            outer.close([b.add(at, step) for at, step in zip(outer.values, steps, strict=True)])

        return signature, wrap(emit)

    return add_row


def _norm(rows: int, out_half: bool, normal_half: bool) -> Callable[..., Any]:
    """Return an intrinsic that writes ``rows`` positions of float32, and their norm.

    ``affine``: weight, then bias, ``size`` bytes apart, as positions are; ``numbers``: one over the channels, and what
    is added to variances.
    """
    write_out, out_bytes = writer(out_half)
    write_normal, normal_bytes = writer(normal_half)

    @intrinsic
    def norm_rows(typing, x, size, out, out_step, normal, normal_step, vectors, affine, numbers):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(9)

        def emit(b, x, size, out, out_step, normal, normal_step, vectors, affine, numbers):  # type: ignore[no-untyped-def]
            share, eps = load_splat(b, numbers), load_splat(b, ahead(b, numbers, 4))

            def starts(address, step):  # type: ignore[no-untyped-def]
                return [b.add(address, b.mul(step, integer(row))) for row in range(rows)]

            loop = Loop(b, vectors, [x, out, *[constant(0.0)] * rows])
            at, to, *totals = loop.values
            for row, (address, end) in enumerate(zip(starts(at, size), starts(to, out_step), strict=True)):
                value = load(b, address)
                totals[row] = b.fadd(totals[row], value)
                write_out(b, value, end)
            _, _, *totals = loop.close([ahead(b, at, BYTES), ahead(b, to, out_bytes), *totals])
            means = [b.fmul(lane_sum(b, total), share) for total in totals]

            loop = Loop(b, vectors, [x, *[constant(0.0)] * rows])
            at, *squares = loop.values
            for row, address in enumerate(starts(at, size)):
                difference = b.fsub(load(b, address), means[row])
                squares[row] = fma(b, difference, difference, squares[row])
            _, *squares = loop.close([ahead(b, at, BYTES), *squares])
            variances = [fma(b, lane_sum(b, square), share, eps) for square in squares]
            factors = [b.fdiv(constant(1.0), square_root(b, variance)) for variance in variances]

            loop = Loop(b, vectors, [x, normal, affine])
            at, to, weight = loop.values
            scale, shift = load(b, weight), load(b, b.add(weight, size))
            for row, (address, end) in enumerate(zip(starts(at, size), starts(to, normal_step), strict=True)):
                value = b.fmul(b.fsub(load(b, address), means[row]), factors[row])
                write_normal(b, fma(b, value, scale, shift), end)
            loop.close([ahead(b, at, BYTES), ahead(b, to, normal_bytes), ahead(b, weight, BYTES)])

        return signature, wrap(emit)

    return norm_rows


_add_row, _add_row_mixed, _add_row_half = _sum(False, False), _sum(False, True), _sum(True, True)
_norm_one, _norm_four = (_norm(rows, False, False) for rows in (1, TOGETHER))
_norm_one_mixed, _norm_four_mixed = (_norm(rows, False, True) for rows in (1, TOGETHER))
_norm_one_half, _norm_four_half = (_norm(rows, True, True) for rows in (1, TOGETHER))


@njit(error_model="numpy")
def _norm_row(kind, x, size, out, out_step, normal, normal_step, columns, vectors, affine, numbers):  # type: ignore[no-untyped-def]
    i = 0
    while i < columns:
        at, to, end = x + size * i, out + out_step * i, normal + normal_step * i
        if columns - i >= TOGETHER:
            if kind == 0:
                _norm_four(at, size, to, out_step, end, normal_step, vectors, affine, numbers)
            elif kind == 1:
                _norm_four_mixed(at, size, to, out_step, end, normal_step, vectors, affine, numbers)
            else:
                _norm_four_half(at, size, to, out_step, end, normal_step, vectors, affine, numbers)
            i += TOGETHER
        else:
            if kind == 0:
                _norm_one(at, size, to, out_step, end, normal_step, vectors, affine, numbers)
            elif kind == 1:
                _norm_one_mixed(at, size, to, out_step, end, normal_step, vectors, affine, numbers)
            else:
                _norm_one_half(at, size, to, out_step, end, normal_step, vectors, affine, numbers)
            i += 1


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.positional_norm``."""
    counters, items, chunks, height, columns, channels, kind = p[2], p[3], p[4], p[5], p[6], p[7], p[8]
    weight, bias, numbers, scratch, scratch_size = p[9], p[10], p[15], p[16], p[17]
    x, x_batch, x_row, x_step = p[18], p[19], p[20], p[21]
    branch, branch_batch, branch_row, branch_step = p[22], p[23], p[24], p[25]
    out, out_batch, out_row, out_step = p[26], p[27], p[28], p[29]
    normal, normal_batch, normal_row, normal_step = p[30], p[31], p[32], p[33]
    step, vectors = 4 * channels, channels // LANES
    line = step * (columns + 2)
    # This thread's own memory: taps, bias, weight and bias of the norm and of the shortcut; three rows that the
    # convolution sees, and the one that it makes.
    tables = scratch + scratch_size * take_number(counters + 8)
    affine, skip, mine = tables + 10 * step, tables + 12 * step, tables + 14 * step
    made = mine + 3 * line
    lay_taps(weight, bias, tables, step, vectors)
    for i in range(4):
        copy(p[11 + i], vectors, affine + i * step)
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
                more = branch + image * branch_batch + y * branch_row
                to = row + step
                if branch == 0:
                    read_row(False, kind == 2, source, x_step, to, step, columns, vectors)
                elif kind == 0:
                    _add_row(source, x_step, more, branch_step, skip, to, step, columns, vectors)
                elif kind == 1:
                    _add_row_mixed(source, x_step, more, branch_step, skip, to, step, columns, vectors)
                else:
                    _add_row_half(source, x_step, more, branch_step, skip, to, step, columns, vectors)
                fill(row + step * (columns + 1), vectors)
            if y <= first:
                continue
            above, here = mine + line * ((y + 1) % 3), mine + line * ((y + 2) % 3)
            write_row(False, above, here, row, step, tables, made, step, columns, vectors)
            to = out + image * out_batch + (y - 1) * out_row
            end = normal + image * normal_batch + (y - 1) * normal_row
            _norm_row(kind, made, step, to, out_step, end, normal_step, columns, vectors, affine, numbers)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint(feed_forward.__file__))
KERNEL: int = _COMPILED.address
