"""The gradient of the selective scan on CPUs: one pass over the tokens from the end, eight channels at a time.

The adjoint is a register, as the state is in the forward (``numba_kernels.py``); steps and decays are computed again
where they are used, and the states of the forward are read. The README of this folder has the equations.

The gradient of the input projection is a sum over channels: vectors add to one vector a token, whose lanes are added
when all have had their turn. No two threads add to the same number, so that no sum depends on how many there are.

:data:`KERNEL` is the address of the compiled function; ``numba_impl.py`` says what its argument holds.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from a2mamba.ops.numba_vectors import (
    BYTES,
    LANES,
    Loop,
    add_lanes,
    ahead,
    constant,
    exp,
    fill,
    fingerprint,
    fma,
    integer,
    intrinsic,
    kernel,
    load,
    load_splat,
    procedure,
    reader,
    softplus_and_slope,
    store,
    take_number,
    writer,
)

RUN = 32
"""Tokens that a vector of channels goes back before the next vector's turn."""

KEPT = 6
"""Vectors kept of eight channels: rate, bias, mask, what the tokens behind send, gradients of rate and bias."""


@intrinsic
def _begin(typing, kept, A, bias, mask):  # type: ignore[no-untyped-def]
    """Write what is kept of eight channels before their last token."""
    signature, wrap = procedure(4)

    def emit(b, kept, A, bias, mask):  # type: ignore[no-untyped-def]
        vectors = [load(b, address) for address in (A, bias, mask)] + [constant(0.0)] * 3
        for i, vector in enumerate(vectors):
            store(b, vector, ahead(b, kept, BYTES * i))

    return signature, wrap(emit)


@intrinsic
def _end(typing, kept, grad_A, grad_bias):  # type: ignore[no-untyped-def]
    """Write the gradients of rate and bias of eight channels."""
    signature, wrap = procedure(3)

    def emit(b, kept, grad_A, grad_bias):  # type: ignore[no-untyped-def]
        store(b, load(b, ahead(b, kept, 4 * BYTES)), grad_A)
        store(b, load(b, ahead(b, kept, 5 * BYTES)), grad_bias)

    return signature, wrap(emit)


def _retreat(with_softplus: bool, half: bool) -> Any:
    """Return an intrinsic that takes eight channels back by ``count`` tokens.

    Its addresses are of the last of these tokens, ``previous`` that of the state before it. Inputs and their gradients
    may be bfloat16.
    """
    read, _ = reader(half)
    write, _ = writer(half)

    @intrinsic
    def retreat(  # type: ignore[no-untyped-def]
        typing, u, u_step, delta, delta_step, projection, previous, previous_step, grad, grad_step,
        grad_u, grad_delta, out_step, sums, kept, count,
    ):  # fmt: skip
        signature, wrap = procedure(15)

        def emit(  # type: ignore[no-untyped-def]
            b, u, u_step, delta, delta_step, projection, previous, previous_step, grad, grad_step,
            grad_u, grad_delta, out_step, sums, kept, count,
        ):  # fmt: skip
            rate, shift, mask, *carried = (load(b, ahead(b, kept, BYTES * i)) for i in range(KEPT))
            addresses = [u, delta, projection, previous, grad, grad_u, grad_delta, sums]
            loop = Loop(b, count, [*addresses, *carried])
            u, delta, projection, previous, grad, grad_u, grad_delta, sums = addresses = loop.values[:8]
            arriving, grad_rate, grad_shift = loop.values[8:]

            step, slope = b.fadd(read(b, delta), shift), None
            if with_softplus:
                step, slope = softplus_and_slope(b, step)
            value, b_t = read(b, u), load_splat(b, projection)
            adjoint = b.fadd(load(b, grad), arriving)
            arriving = b.fmul(exp(b, b.fmul(step, rate), positive=True), adjoint)
            grad_log_decay = b.fmul(arriving, load(b, previous))
            weighted = b.fmul(adjoint, step)
            grad_step_size = fma(b, grad_log_decay, rate, b.fmul(b.fmul(adjoint, b_t), value))
            if with_softplus:
                grad_step_size = b.fmul(grad_step_size, slope)
            write(b, b.fmul(weighted, b_t), grad_u)
            write(b, grad_step_size, grad_delta)
            store(b, fma(b, b.fmul(weighted, mask), value, load(b, sums)), sums)

            steps = [u_step, delta_step, integer(4), previous_step, grad_step, out_step, out_step, integer(BYTES)]
            following = [b.sub(address, length) for address, length in zip(addresses, steps, strict=True)]
            carried = [arriving, fma(b, grad_log_decay, step, grad_rate), b.fadd(grad_shift, grad_step_size)]
            last = loop.close([*following, *carried])[8:]
            for i, vector in enumerate(last, start=3):
                store(b, vector, ahead(b, kept, BYTES * i))

        return signature, wrap(emit)

    return retreat


_retreat_softplus, _retreat_plain = _retreat(True, half=False), _retreat(False, half=False)
_retreat_softplus_half, _retreat_plain_half = _retreat(True, half=True), _retreat(False, half=True)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.backward``."""
    counters, items, with_softplus = p[2], p[3], p[4]
    groups, group_channels, item_channels, length = p[5], p[6], p[7], p[8]
    u, u_batch, u_step = p[9], p[10], p[11]
    delta, delta_batch, delta_step = p[12], p[13], p[14]
    states, states_batch, states_step = p[15], p[16], p[17]
    grad, grad_batch, grad_step = p[18], p[19], p[20]
    grad_u, grad_delta, out_batch, out_step = p[21], p[22], p[23], p[24]
    projection, A, bias, ramp = p[25], p[26], p[27], p[28]
    grad_B, grad_A, grad_bias, scratch, scratch_size = p[29], p[30], p[31], p[32], p[33]
    number = p[34]  # bytes of one of u and of delta

    # This thread's own memory: the sums of a run's tokens, and what is kept of the channels.
    sums = scratch + scratch_size * take_number(counters + 8)
    kept = sums + BYTES * RUN
    channels_of_all = groups * group_channels
    spans = (group_channels + item_channels - 1) // item_channels
    while True:
        item = take_number(counters)
        if item >= items:
            return
        row, span = item // spans, item % spans
        batch, group = row // groups, row % groups
        begin = span * item_channels
        vectors = (min(item_channels, group_channels - begin) + LANES - 1) // LANES
        for vector in range(vectors):
            # The last vector of a group that eight does not divide repeats channels of the one before, which must not
            # be added twice: ``ramp`` holds eight zeros, then eight ones.
            c = min(begin + vector * LANES, group_channels - LANES)
            repeated = begin + vector * LANES - c
            c += group * group_channels
            _begin(kept + KEPT * BYTES * vector, A + 4 * c, bias + 4 * c, ramp + 4 * (LANES - repeated))
        behind = length
        while behind > 0:
            # The first token has a run of its own: no state is before it, and the zeros of ``ramp`` are read instead.
            first = max(1, behind - RUN) if behind > 1 else 0
            count, t = behind - first, behind - 1
            fill(sums, count)
            for vector in range(vectors):
                c = group * group_channels + min(begin + vector * LANES, group_channels - LANES)
                at_u = u + batch * u_batch + t * u_step + number * c
                at_delta = delta + batch * delta_batch + t * delta_step + number * c
                at_previous = states + batch * states_batch + (t - 1) * states_step + 4 * c if t else ramp
                at_grad = grad + batch * grad_batch + t * grad_step + 4 * c
                at_out = batch * out_batch + t * out_step + number * c
                b_t, last_sum = projection + 4 * (row * length + t), sums + BYTES * (count - 1)
                k = kept + KEPT * BYTES * vector
                if number == 2:
                    if with_softplus:
                        _retreat_softplus_half(
                            at_u, u_step, at_delta, delta_step, b_t, at_previous, states_step, at_grad, grad_step,
                            grad_u + at_out, grad_delta + at_out, out_step, last_sum, k, count
                        )  # fmt: skip
                    else:
                        _retreat_plain_half(
                            at_u, u_step, at_delta, delta_step, b_t, at_previous, states_step, at_grad, grad_step,
                            grad_u + at_out, grad_delta + at_out, out_step, last_sum, k, count
                        )  # fmt: skip
                elif with_softplus:
                    _retreat_softplus(
                        at_u, u_step, at_delta, delta_step, b_t, at_previous, states_step, at_grad, grad_step,
                        grad_u + at_out, grad_delta + at_out, out_step, last_sum, k, count
                    )  # fmt: skip
                else:
                    _retreat_plain(
                        at_u, u_step, at_delta, delta_step, b_t, at_previous, states_step, at_grad, grad_step,
                        grad_u + at_out, grad_delta + at_out, out_step, last_sum, k, count
                    )  # fmt: skip
            add_lanes(sums, count, grad_B + 4 * (item * length + first))
            behind = first
        for vector in range(vectors):
            c = group * group_channels + min(begin + vector * LANES, group_channels - LANES)
            at = 4 * (batch * channels_of_all + c)
            _end(kept + KEPT * BYTES * vector, grad_A + at, grad_bias + at)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
