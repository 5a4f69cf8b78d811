"""Triton kernels of the selective scan; ``triton_impl.py`` launches them and says how the sequence is cut.

A program owns BLOCK_C channels of one group and one *chunk* of the sequence, which it walks in tiles of BLOCK_L
tokens: a tile is scanned in registers, and what the tokens before it carry is added with the running product of the
decays. Where there is one chunk, that is all. Where there are several, the same kernel first runs with AGGREGATE: it
stores only a chunk's product and last state; ``scan_carry_kernel`` scans those, and the second run starts every chunk
from what the chunks before it carry. Everything is float32; the backward recomputes steps and decays from delta.

Products only ever multiply decays, which lie in (0, 1) for negative A: nothing is divided, so nothing overflows.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _combine(decay_1, state_1, decay_2, state_2):
    """Compose h -> decay_1 h + state_1 with what follows it."""
    return decay_1 * decay_2, decay_2 * state_1 + state_2


@triton.jit
def _softplus(z):
    """Return log(1 + exp(z)) to float32's relative accuracy, for small steps too."""
    # The rounding error of 1 + e is undone by e / ((1 + e) - 1); beyond 20 the logarithm is below rounding.
    e = tl.exp2(-tl.abs(z) * LOG2E)
    rounded = 1.0 + e
    log1p = tl.where(rounded == 1.0, e, tl.log(rounded) * (e / tl.where(rounded == 1.0, 1.0, rounded - 1.0)))
    return tl.maximum(z, 0.0) + log1p


@triton.jit
def _place(pid, chunks, groups, blocks):
    """Decode a program id into (image, chunk, group, channel block): what shares cache lines runs side by side."""
    block = pid % blocks
    rest = pid // blocks
    group = rest % groups
    rest = rest // groups
    return (rest // chunks).to(tl.int64), rest % chunks, group, block


@triton.jit
def _row(tile, index, row):
    """Return one row of a tile (BLOCK_L, BLOCK_C)."""
    return tl.sum(tl.where((index == row)[:, None], tile, 0.0), 0)


@triton.jit(do_not_specialize=["length", "chunks", "chunk_length", "groups", "blocks"])
def scan_kernel(
    u, delta, a, b, bias, states, products, lasts,
    channels, group_channels, length, chunks, chunk_length, groups, blocks,
    u_b, u_c, u_l, d_b, d_c, d_l, b_b, b_n, b_l, h_b, h_c, h_l,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    AGGREGATE: tl.constexpr, HAS_CARRY: tl.constexpr,
):  # fmt: skip
    """Scan one chunk of one channel block.

    AGGREGATE: fill products and lasts (B, chunks, C). Otherwise fill states (B, C, L), from lasts with HAS_CARRY.
    """
    pid = tl.program_id(0)
    if HAS_CARRY:
        # Begin where the run with AGGREGATE ended: its last chunks are still in the cache.
        pid = tl.num_programs(0) - 1 - pid
    image, chunk, group, block = _place(pid, chunks, groups, blocks)
    within = block * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = within < group_channels
    channel = group * group_channels + within
    u += image * u_b
    delta += image * d_b
    b += image * b_b + group * b_n
    states += image * h_b
    slot = (image * chunks + chunk) * channels + channel
    rate = tl.load(a + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    carry = tl.zeros([BLOCK_C], tl.float32)
    if HAS_CARRY:
        carry = tl.load(lasts + slot, mask=exists, other=0.0)
    product = tl.full([BLOCK_C], 1.0, tl.float32)
    row = tl.arange(0, BLOCK_L)
    first = chunk * chunk_length
    for begin in range(first, tl.minimum(first + chunk_length, length), BLOCK_L):
        token = begin + row
        real = token < length
        mask = real[:, None] & exists[None, :]
        step = tl.load(delta + token[:, None] * d_l + channel[None, :] * d_c, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(u + token[:, None] * u_l + channel[None, :] * u_c, mask=mask, other=0.0).to(tl.float32)
        projection = tl.load(b + token * b_l, mask=real, other=0.0).to(tl.float32)[:, None]
        if HAS_BIAS:
            step += shift
        if SOFTPLUS:
            step = _softplus(step)
        decay = tl.exp2(rate * LOG2E * step)
        decays, tile = tl.associative_scan((decay, step * projection * value), 0, _combine)
        tile += decays * carry[None, :]
        carry = _row(tile, row, BLOCK_L - 1)
        if AGGREGATE:
            product *= _row(decays, row, BLOCK_L - 1)
        else:
            out = tile.to(states.dtype.element_ty)
            tl.store(states + token[:, None] * h_l + channel[None, :] * h_c, out, mask=mask)
    if AGGREGATE:
        tl.store(products + slot, product, mask=exists)
        tl.store(lasts + slot, carry, mask=exists)


@triton.jit(do_not_specialize=["chunks", "blocks"])
def scan_carry_kernel(
    products, lasts, carries, channels, chunks, blocks,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Fill carries (B, chunks, C) with the state that enters every chunk; REVERSE counts chunks from the end."""
    image, _, _, block = _place(tl.program_id(0), 1, 1, blocks)
    channel = block * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = channel < channels
    base = image * chunks * channels
    row = tl.arange(0, BLOCK_L)
    carry = tl.zeros([BLOCK_C], tl.float32)
    entry = chunks - 1 if REVERSE else 0
    tl.store(carries + base + entry * channels + channel, carry, mask=exists)
    for begin in range(0, chunks - 1, BLOCK_L):
        count = begin + row
        index = chunks - 1 - count if REVERSE else count
        following = index - 1 if REVERSE else index + 1
        mask = (count < chunks - 1)[:, None] & exists[None, :]
        offset = index[:, None] * channels + channel[None, :]
        decay = tl.load(products + base + offset, mask=mask, other=1.0)
        state = tl.load(lasts + base + offset, mask=mask, other=0.0)
        decays, tile = tl.associative_scan((decay, state), 0, _combine)
        tile += decays * carry[None, :]
        carry = _row(tile, row, BLOCK_L - 1)
        tl.store(carries + base + following[:, None] * channels + channel[None, :], tile, mask=mask)


@triton.jit(do_not_specialize=["length", "chunks", "chunk_length", "groups", "blocks"])
def scan_backward_kernel(
    grad, states, u, delta, a, b, bias, grad_u, grad_delta, grad_a, grad_b, grad_bias, products, lasts,
    channels, group_channels, length, chunks, chunk_length, groups, blocks,
    g_b, g_c, g_l, h_b, h_c, h_l, u_b, u_c, u_l, d_b, d_c, d_l, b_b, b_n, b_l,
    gu_b, gu_c, gu_l, gd_b, gd_c, gd_l,
    BLOCK_L: tl.constexpr, BLOCK_C: tl.constexpr, HAS_BIAS: tl.constexpr, SOFTPLUS: tl.constexpr,
    AGGREGATE: tl.constexpr, HAS_CARRY: tl.constexpr,
):  # fmt: skip
    """Scan one chunk of one channel block from its end: l_t = g_t + decay_(t+1) l_(t+1), l the gradient of an input.

    AGGREGATE: fill products and lasts (B, chunks, C). Otherwise fill grad_u, grad_delta and this program's share of
    grad_a and grad_bias (B, chunks, C) and of grad_b (B, groups, blocks, L).
    """
    pid = tl.program_id(0)
    if HAS_CARRY:
        pid = tl.num_programs(0) - 1 - pid
    image, chunk, group, block = _place(pid, chunks, groups, blocks)
    within = block * BLOCK_C + tl.arange(0, BLOCK_C)
    exists = within < group_channels
    channel = group * group_channels + within
    grad += image * g_b
    states += image * h_b
    u += image * u_b
    delta += image * d_b
    b += image * b_b + group * b_n
    grad_u += image * gu_b
    grad_delta += image * gd_b
    grad_b += ((image * groups + group) * blocks + block) * length
    slot = (image * chunks + chunk) * channels + channel
    rate = tl.load(a + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    carry = tl.zeros([BLOCK_C], tl.float32)
    if HAS_CARRY:
        carry = tl.load(lasts + slot, mask=exists, other=0.0)
    product = tl.full([BLOCK_C], 1.0, tl.float32)
    total_a = tl.zeros([BLOCK_C], tl.float32)
    total_bias = tl.zeros([BLOCK_C], tl.float32)
    row = tl.arange(0, BLOCK_L)
    first = chunk * chunk_length
    tiles = tl.cdiv(tl.minimum(chunk_length, length - first), BLOCK_L)
    for count in range(tiles):
        token = first + (tiles - 1 - count) * BLOCK_L + row
        mask = (token < length)[:, None] & exists[None, :]
        # Nothing follows the last token: its decay is set to zero.
        ahead = (token + 1 < length)[:, None] & exists[None, :]
        step = tl.load(delta + (token + 1)[:, None] * d_l + channel[None, :] * d_c, mask=ahead, other=0.0)
        step = step.to(tl.float32)
        if HAS_BIAS:
            step += shift
        if SOFTPLUS:
            step = _softplus(step)
        arriving = tl.load(grad + token[:, None] * g_l + channel[None, :] * g_c, mask=mask, other=0.0).to(tl.float32)
        decay = tl.where(ahead, tl.exp2(rate * LOG2E * step), 0.0)
        decays, tile = tl.associative_scan((decay, arriving), 0, _combine, reverse=True)
        tile += decays * carry[None, :]
        carry = _row(tile, row, 0)
        if AGGREGATE:
            product *= _row(decays, row, 0)
        else:
            raw = tl.load(delta + token[:, None] * d_l + channel[None, :] * d_c, mask=mask, other=0.0).to(tl.float32)
            value = tl.load(u + token[:, None] * u_l + channel[None, :] * u_c, mask=mask, other=0.0).to(tl.float32)
            projection = tl.load(b + token * b_l, mask=token < length, other=0.0).to(tl.float32)[:, None]
            behind = mask & (token > 0)[:, None]
            previous = tl.load(states + (token - 1)[:, None] * h_l + channel[None, :] * h_c, mask=behind, other=0.0).to(
                tl.float32
            )
            if HAS_BIAS:
                raw += shift
            now = _softplus(raw) if SOFTPLUS else raw
            grad_log = tile * tl.exp2(rate * LOG2E * now) * previous
            weighted = tile * now
            grad_step = grad_log * rate + tile * projection * value
            if SOFTPLUS:
                grad_step *= tl.sigmoid(raw)
            # Gradients are zero where there is no token or channel, so the sums need no mask.
            total_a += tl.sum(grad_log * now, 0)
            total_bias += tl.sum(grad_step, 0)
            tl.store(grad_b + token, tl.sum(weighted * value, 1), mask=token < length)
            out = (weighted * projection).to(grad_u.dtype.element_ty)
            tl.store(grad_u + token[:, None] * gu_l + channel[None, :] * gu_c, out, mask=mask)
            out = grad_step.to(grad_delta.dtype.element_ty)
            tl.store(grad_delta + token[:, None] * gd_l + channel[None, :] * gd_c, out, mask=mask)
    if AGGREGATE:
        tl.store(products + slot, product, mask=exists)
        tl.store(lasts + slot, carry, mask=exists)
    else:
        tl.store(grad_a + slot, total_a, mask=exists)
        tl.store(grad_bias + slot, total_bias, mask=exists)
