"""The selective scan on CPUs: one pass over the tokens, eight channels at a time.

Everything that a state needs (softplus, exponential, product, sum) is computed where it is used, and the state is a
register: memory is read once and written once. Tokens are worked off in short runs for all channels of an item, so
that the lines of memory that neighboring vectors of channels share are read from the cache.

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
    exp,
    fill,
    fingerprint,
    fma,
    intrinsic,
    kernel,
    load,
    load_splat,
    procedure,
    reader,
    softplus,
    store,
    take_number,
)

RUN = 32
"""Tokens that a vector of channels advances before the next vector's turn."""


def _advance(with_softplus: bool, half: bool) -> Any:
    """Return an intrinsic that advances the states of eight channels by ``count`` tokens; inputs may be bfloat16."""
    read, _ = reader(half)

    @intrinsic
    def advance(typing, u, u_step, delta, delta_step, projection, out, out_step, A, bias, state, count):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(11)

        def emit(b, u, u_step, delta, delta_step, projection, out, out_step, A, bias, state, count):  # type: ignore[no-untyped-def]
            rate, shift = load(b, A), load(b, bias)
            loop = Loop(b, count, [u, delta, projection, out, load(b, state)])
            u, delta, projection, out, h = loop.values
            step = b.fadd(read(b, delta), shift)
            if with_softplus:
                step = softplus(b, step)
            x = b.fmul(b.fmul(step, read(b, u)), load_splat(b, projection))
            h = fma(b, exp(b, b.fmul(step, rate), positive=True), h, x)
            store(b, h, out)
            following = [b.add(u, u_step), b.add(delta, delta_step), ahead(b, projection, 4), b.add(out, out_step), h]
            store(b, loop.close(following)[-1], state)

        return signature, wrap(emit)

    return advance


_advance_softplus, _advance_plain = _advance(True, half=False), _advance(False, half=False)
_advance_softplus_half, _advance_plain_half = _advance(True, half=True), _advance(False, half=True)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.forward``."""
    counters, items, with_softplus = p[2], p[3], p[4]
    groups, group_channels, item_channels, length = p[5], p[6], p[7], p[8]
    u, u_batch, u_step = p[9], p[10], p[11]
    delta, delta_batch, delta_step = p[12], p[13], p[14]
    out, out_batch, out_step = p[15], p[16], p[17]
    projection, A, bias, states, states_size = p[18], p[19], p[20], p[21], p[22]
    number = p[23]  # bytes of one of u and of delta

    mine = states + states_size * take_number(counters + 8)
    spans = (group_channels + item_channels - 1) // item_channels
    while True:
        item = take_number(counters)
        if item >= items:
            return
        row, span = item // spans, item % spans
        batch, group = row // groups, row % groups
        first = span * item_channels
        channels = min(item_channels, group_channels - first)
        vectors = (channels + LANES - 1) // LANES
        fill(mine, vectors)
        for t in range(0, length, RUN):
            count = min(RUN, length - t)
            b = projection + 4 * (row * length + t)
            for vector in range(vectors):
                # The last vector of a group that eight does not divide repeats channels of the one before.
                c = group * group_channels + min(first + vector * LANES, group_channels - LANES)
                at_u = u + batch * u_batch + t * u_step + number * c
                at_delta = delta + batch * delta_batch + t * delta_step + number * c
                at_out = out + batch * out_batch + t * out_step + 4 * c
                h = mine + BYTES * vector
                rate, shift = A + 4 * c, bias + 4 * c
                if number == 2:
                    if with_softplus:
                        _advance_softplus_half(
                            at_u, u_step, at_delta, delta_step, b, at_out, out_step, rate, shift, h, count
                        )
                    else:
                        _advance_plain_half(
                            at_u, u_step, at_delta, delta_step, b, at_out, out_step, rate, shift, h, count
                        )
                elif with_softplus:
                    _advance_softplus(at_u, u_step, at_delta, delta_step, b, at_out, out_step, rate, shift, h, count)
                else:
                    _advance_plain(at_u, u_step, at_delta, delta_step, b, at_out, out_step, rate, shift, h, count)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
