"""What follows the attention at every position of a map, on CPUs: one pass over memory each, eight channels at a time.

:data:`READ_OUT` and :data:`GATED_NORM` are the addresses of compiled functions; ``numba_impl.py`` says what their
arguments hold. Threads take runs of positions.
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
    copy,
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
    silu,
    square_root,
    store,
    take_number,
    writer,
)


def _mixing(in_half: bool) -> Callable[..., Any]:
    """Return an intrinsic for eight channels of (bias + sum over heads h of weight[h] * state_h) * readout + u * skip.

    The states of heads are ``head_step`` bytes apart: ``half`` of them from ``first`` on, as many from ``second``.
    ``in_half``: states and u are bfloat16.
    """
    read, _ = reader(in_half)

    @intrinsic
    def mix(typing, first, second, head_step, half, weight, bias, readout, u, skip, out):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(10)

        def emit(b, first, second, head_step, half, weight, bias, readout, u, skip, out):  # type: ignore[no-untyped-def]
            total = load_splat(b, bias)
            for states in (first, second):
                loop = Loop(b, half, [states, weight, total])
                at, weight, total = loop.values
                total = fma(b, load_splat(b, weight), read(b, at), total)
                _, weight, total = loop.close([b.add(at, head_step), ahead(b, weight, 4), total])
            store(b, fma(b, total, load_splat(b, readout), b.fmul(read(b, u), load(b, skip))), out)

        return signature, wrap(emit)

    return mix


_mix, _mix_half = _mixing(False), _mixing(True)


def _gate_rows(rows: int, half: bool) -> Callable[..., Any]:
    """Return an intrinsic that writes norm((norm(x) + added) * silu(gate)) of ``rows`` neighboring positions.

    Its arguments: four maps, each with the bytes between positions; how many vectors a position has; ``affine``, weight
    and bias of the first norm, of the second and of the gate, ``size`` bytes apart; ``numbers``, one over the channels
    and what is added to variances; ``between``, memory for as many positions, ``size`` bytes each. Several positions
    at once, because every step of a norm waits for the one before.

    ``half``: all but ``x`` are bfloat16.
    """
    read_map, map_bytes = reader(half)
    write_out, out_bytes = writer(half)

    @intrinsic
    def gate_rows(  # type: ignore[no-untyped-def]
        typing,
        x,
        x_step,
        added,
        added_step,
        gate,
        gate_step,
        out,
        out_step,
        vectors,
        affine,
        size,
        numbers,
        between,
    ):
        signature, wrap = procedure(13)

        def emit(  # type: ignore[no-untyped-def]
            b,
            x,
            x_step,
            added,
            added_step,
            gate,
            gate_step,
            out,
            out_step,
            vectors,
            affine,
            size,
            numbers,
            between,
        ):
            share, eps = load_splat(b, numbers), load_splat(b, ahead(b, numbers, 4))

            def starts(address, step):  # type: ignore[no-untyped-def]
                return [b.add(address, b.mul(step, integer(row))) for row in range(rows)]

            def moments(at, step, totals):  # type: ignore[no-untyped-def]
                """Return means and one over standard deviations of rows whose sums are known lane by lane."""
                means = [b.fmul(lane_sum(b, total), share) for total in totals]
                loop = Loop(b, vectors, [at, *[constant(0.0)] * rows])
                at, *squares = loop.values
                for row, address in enumerate(starts(at, step)):
                    difference = b.fsub(load(b, address), means[row])
                    squares[row] = fma(b, difference, difference, squares[row])
                _, *squares = loop.close([ahead(b, at, BYTES), *squares])
                variances = [fma(b, lane_sum(b, square), share, eps) for square in squares]
                return means, [b.fdiv(constant(1.0), square_root(b, variance)) for variance in variances]

            loop = Loop(b, vectors, [x, *[constant(0.0)] * rows])
            at, *totals = loop.values
            for row, address in enumerate(starts(at, x_step)):
                totals[row] = b.fadd(totals[row], load(b, address))
            _, *totals = loop.close([ahead(b, at, BYTES), *totals])
            means, factors = moments(x, x_step, totals)

            loop = Loop(b, vectors, [x, added, gate, between, affine, *[constant(0.0)] * rows])
            *addresses, weight = loop.values[:5]
            totals = loop.values[5:]
            scale, shift = load(b, weight), load(b, b.add(weight, size))
            gate_scale, gate_shift = (load(b, b.add(weight, b.mul(size, integer(row)))) for row in (4, 5))
            places = zip(*map(starts, addresses, (x_step, added_step, gate_step, size)), strict=True)
            for row, (at, add, gates, to) in enumerate(places):
                value = fma(b, b.fmul(b.fsub(load(b, at), means[row]), factors[row]), scale, shift)
                open_gate = silu(b, fma(b, read_map(b, gates), gate_scale, gate_shift))
                value = b.fmul(b.fadd(value, read_map(b, add)), open_gate)
                store(b, value, to)
                totals[row] = b.fadd(totals[row], value)
            sizes = (BYTES, map_bytes, map_bytes, BYTES, BYTES)
            following = [ahead(b, at, size) for at, size in zip((*addresses, weight), sizes, strict=True)]
            totals = loop.close([*following, *totals])[5:]
            means, factors = moments(between, size, totals)

            loop = Loop(b, vectors, [between, out, b.add(affine, b.add(size, size))])
            at, to, weight = loop.values
            scale, shift = load(b, weight), load(b, b.add(weight, size))
            for row, (place, end) in enumerate(zip(starts(at, size), starts(to, out_step), strict=True)):
                value = b.fmul(b.fsub(load(b, place), means[row]), factors[row])
                write_out(b, fma(b, value, scale, shift), end)
            loop.close([ahead(b, at, BYTES), ahead(b, to, out_bytes), ahead(b, weight, BYTES)])

        return signature, wrap(emit)

    return gate_rows


@intrinsic
def _scale_by_statistics(typing, affine, size, mean, variance, eps, vectors):  # type: ignore[no-untyped-def]
    """Make weight and bias of a norm, ``size`` bytes apart, those of all that it does with constant statistics."""
    signature, wrap = procedure(6)

    def emit(b, affine, size, mean, variance, eps, vectors):  # type: ignore[no-untyped-def]
        loop = Loop(b, vectors, [affine, mean, variance])
        weight, center, spread = loop.values
        bias = b.add(weight, size)
        deviation = square_root(b, b.fadd(load(b, spread), load_splat(b, eps)))
        scale = b.fdiv(load(b, weight), deviation)
        store(b, scale, weight)
        store(b, b.fsub(load(b, bias), b.fmul(load(b, center), scale)), bias)
        loop.close([ahead(b, address, BYTES) for address in loop.values])

    return signature, wrap(emit)


TOGETHER = 4
"""Positions that are normalized at once."""

_gate_one, _gate_four = (_gate_rows(rows, False) for rows in (1, TOGETHER))
_gate_one_half, _gate_four_half = (_gate_rows(rows, True) for rows in (1, TOGETHER))


@njit(error_model="numpy")
def _gate(  # type: ignore[no-untyped-def]
    half, together, x, x_step, added, added_step, gate, gate_step, out, out_step, vectors, affine, numbers, between
):
    """Do one position or four."""
    size = BYTES * vectors
    a, b, c, d = x_step, added_step, gate_step, out_step
    if half:
        if together:
            _gate_four_half(x, a, added, b, gate, c, out, d, vectors, affine, size, numbers, between)
        else:
            _gate_one_half(x, a, added, b, gate, c, out, d, vectors, affine, size, numbers, between)
    elif together:
        _gate_four(x, a, added, b, gate, c, out, d, vectors, affine, size, numbers, between)
    else:
        _gate_one(x, a, added, b, gate, c, out, d, vectors, affine, size, numbers, between)


@njit(error_model="numpy")
def _read_out(p):  # type: ignore[no-untyped-def]
    counters, items, positions, run = p[2], p[3], p[4], p[5]
    half, width, weights, biases, skip = p[6], p[7], p[8], p[9], p[10]
    first, first_step, second, second_step = p[11], p[12], p[13], p[14]
    u, u_step, readout, readout_step, out, out_step = p[15], p[16], p[17], p[18], p[19], p[20]
    number = p[21]  # bytes of one of the states and of u
    while True:
        item = take_number(counters)
        if item >= items:
            return
        for i in range(item * run, min(positions, (item + 1) * run)):
            for head in range(2 * half):
                weight = weights + 8 * half * head
                for channel in range(0, width, LANES):
                    at, c = number * channel, head * width + channel
                    at_first, at_second = first + i * first_step + at, second + i * second_step + at
                    bias, at_readout, at_u = biases + 4 * head, readout + i * readout_step, u + i * u_step + number * c
                    at_skip, at_out = skip + 4 * c, out + i * out_step + 4 * c
                    if number == 2:
                        _mix_half(at_first, at_second, 2 * width, half, weight, bias, at_readout, at_u, at_skip, at_out)
                    else:
                        _mix(at_first, at_second, 4 * width, half, weight, bias, at_readout, at_u, at_skip, at_out)


@njit(error_model="numpy")
def _gated_norm(p):  # type: ignore[no-untyped-def]
    counters, items, positions, run = p[2], p[3], p[4], p[5]
    channels, numbers = p[6], p[7]
    x, x_step, added, added_step = p[8], p[9], p[10], p[11]
    gate, gate_step, out, out_step = p[12], p[13], p[14], p[15]
    half, scratch, scratch_size = p[16], p[17], p[18]
    # This thread's own memory: weight and bias of the first norm, of the second and of the gate; some positions.
    affine = scratch + scratch_size * take_number(counters + 8)
    size, vectors = 4 * channels, channels // LANES
    between = affine + 6 * size
    for i in range(6):
        copy(p[19 + i], vectors, affine + i * size)
    if p[25]:
        _scale_by_statistics(affine + 4 * size, size, p[25], p[26], p[27] + 4, vectors)
    while True:
        item = take_number(counters)
        if item >= items:
            return
        i, last = item * run, min(positions, (item + 1) * run)
        while i < last:
            at_x, at_added = x + i * x_step, added + i * added_step
            at_gate, at_out = gate + i * gate_step, out + i * out_step
            together = last - i >= TOGETHER
            _gate(
                half, together, at_x, x_step, at_added, added_step, at_gate, gate_step, at_out, out_step,
                vectors, affine, numbers, between
            )  # fmt: skip
            i += TOGETHER if together else 1


def _compile(version: int) -> tuple[Any, Any]:
    @kernel
    def read_out(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _read_out(p)

    @kernel
    def gated_norm(p):  # type: ignore[no-untyped-def]
        if version:
            _gated_norm(p)

    return read_out, gated_norm


_COMPILED = _compile(fingerprint())
READ_OUT: int = _COMPILED[0].address
GATED_NORM: int = _COMPILED[1].address
