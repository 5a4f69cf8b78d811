"""Triton kernels of the readout and the gated norm: one reading of every map, float32 inside.

A program owns some *rows*, which are positions of the batch of maps, with all their channels. ``_p`` is how far apart
the positions of a map are in memory.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows"])
def read_out_kernel(
    first, second, weight, bias, readout, u, skip, out, rows, first_p, second_p, readout_p, u_p,
    HEADS: tl.constexpr, HEADS_PAD: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Fill out (rows, heads * d): (sum over h of weight[g, h] states_h + bias_g) * readout + skip * u."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    head = tl.arange(0, HEADS_PAD)[None, :, None]
    within = tl.arange(0, D_PAD)[None, None, :]
    there, inside = row < rows, within < D
    known = head < HEADS
    half: tl.constexpr = HEADS // 2
    mixed = tl.zeros([ROWS, HEADS_PAD, D_PAD], tl.float32)
    mixed += tl.load(bias + head, mask=known, other=0.0).to(tl.float32)
    for h in range(half):
        states = tl.load(first + row * first_p + h * D + within, mask=there & inside, other=0.0).to(tl.float32)
        mixed += states * tl.load(weight + head * HEADS + h, mask=known, other=0.0).to(tl.float32)
        states = tl.load(second + row * second_p + h * D + within, mask=there & inside, other=0.0).to(tl.float32)
        mixed += states * tl.load(weight + head * HEADS + half + h, mask=known, other=0.0).to(tl.float32)
    channel = head * D + within
    exists = there & known & inside
    scanned = tl.load(u + row * u_p + channel, mask=exists, other=0.0).to(tl.float32)
    scanned *= tl.load(skip + channel, mask=known & inside, other=0.0).to(tl.float32)
    read = tl.load(readout + row * readout_p, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row * (HEADS * D) + channel, mixed * read + scanned, mask=exists)


@triton.jit
def _normalize(x, real, weight, bias, channel, eps, C: tl.constexpr):
    """Return the norm over the channels of rows (ROWS, padded C); what is not ``real`` stays zero but for the bias."""
    mean = tl.sum(x, 1)[:, None] / C
    centered = tl.where(real, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centered * centered, 1)[:, None] / C + eps)
    factor = tl.load(weight + channel, mask=real, other=0.0).to(tl.float32)
    return centered * scale * factor + tl.load(bias + channel, mask=real, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
def gated_norm_kernel(
    x, added, gate, gate_mean, gate_variance, gate_weight, gate_bias, weight, bias, out_weight, out_bias, out,
    rows, x_p, added_p, gate_p, gate_eps, eps,
    C: tl.constexpr, C_PAD: tl.constexpr, ROWS: tl.constexpr, GATE_NORM: tl.constexpr,
):  # fmt: skip
    """Fill out (rows, C): out_norm((norm(x) + added) * silu(gate)), the gate normalized first with GATE_NORM."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, C_PAD)[None, :]
    real = channel < C
    exists = (row < rows) & real
    values = tl.load(x + row * x_p + channel, mask=exists, other=0.0).to(tl.float32)
    values = _normalize(values, real, weight, bias, channel, eps, C)
    values += tl.load(added + row * added_p + channel, mask=exists, other=0.0).to(tl.float32)
    opening = tl.load(gate + row * gate_p + channel, mask=exists, other=0.0).to(tl.float32)
    if GATE_NORM:
        factor = tl.rsqrt(tl.load(gate_variance + channel, mask=real, other=1.0).to(tl.float32) + gate_eps)
        factor *= tl.load(gate_weight + channel, mask=real, other=0.0).to(tl.float32)
        opening -= tl.load(gate_mean + channel, mask=real, other=0.0).to(tl.float32)
        opening = opening * factor + tl.load(gate_bias + channel, mask=real, other=0.0).to(tl.float32)
    values *= opening * tl.sigmoid(opening)
    values = _normalize(tl.where(real, values, 0.0), real, out_weight, out_bias, channel, eps, C)
    tl.store(out + row * C + channel, values.to(out.dtype.element_ty), mask=exists)
