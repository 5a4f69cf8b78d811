"""The gradient of neighborhood attention on CPUs, made of the forward's blocks (``numba_kernels.py``).

One thread owns a whole image (one head of one image), so that nothing needs to be added atomically and no sum depends
on the number of threads. For a strip and a tile it computes the weights P again, dP as the scores of gradients with
values, and from both dS; dQ is the sum of keys with the weights dS.

The gradients of keys and values are sums over queries, which lie elsewhere for every offset. To scatter vectors
that overlap would make every load wait for the store before it. Instead, P and dS of a strip are kept for whole rows,
one vector a tile, offset and row of keys; then a tile of *keys* gathers, at every offset o, the weights and the query
or gradient that stand o to the left of it. That is the forward's sum over values once more, in registers. Rows have
zeros where no query looks at an offset; they are written once and never again.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from a2mamba.ops.neighborhood import numba_kernels
from a2mamba.ops.neighborhood.numba_kernels import (
    MARGIN,
    UNROLLED,
    add_values,
    pack,
    pack_half,
    read_strip,
    score_tile,
    softmax_tile,
    store_outputs,
    store_outputs_as_half,
    strip_part,
    value_tile,
)
from a2mamba.ops.numba_vectors import (
    BYTES,
    LANES,
    Loop,
    add_lanes,
    ahead,
    constant,
    fill,
    fingerprint,
    fma,
    intrinsic,
    kernel,
    load,
    procedure,
    read,
    store,
    take_number,
)


@intrinsic
def _differentiate(typing, weights, grads, groups, inverse, lines, offsets, p, s, line, offset, bias, bias_line):  # type: ignore[no-untyped-def]
    """Compute dS = P (dP - sum over P dP) from P without its factor ``inverse``, and dP.

    P and dS are written to rows, that is, ``line`` bytes apart between rows of keys and ``offset`` between offsets;
    dS is added to ``bias``, the vectors of the table's gradient.
    """
    signature, wrap = procedure(12)

    def emit(b, weights, grads, groups, inverse, lines, offsets, p, s, line, offset, bias, bias_line):  # type: ignore[no-untyped-def]
        loop = Loop(b, groups, [weights, grads, *[constant(0.0)] * UNROLLED])
        w, g, *sums = loop.values
        for i in range(UNROLLED):
            sums[i] = fma(b, load(b, ahead(b, w, BYTES * i)), load(b, ahead(b, g, BYTES * i)), sums[i])
        _, _, *sums = loop.close([ahead(b, w, BYTES * UNROLLED), ahead(b, g, BYTES * UNROLLED), *sums])
        factor = load(b, inverse)
        mean = b.fmul(b.fadd(b.fadd(sums[0], sums[1]), b.fadd(sums[2], sums[3])), factor)

        outer = Loop(b, lines, [weights, grads, p, s, bias])
        inner = Loop(b, offsets, outer.values)
        w, g, p_at, s_at, bias_at = inner.values
        weight = b.fmul(load(b, w), factor)
        slope = b.fmul(weight, b.fsub(load(b, g), mean))
        store(b, weight, p_at)
        store(b, slope, s_at)
        store(b, b.fadd(load(b, bias_at), slope), bias_at)
        steps = [ahead(b, w, BYTES), ahead(b, g, BYTES), b.add(p_at, offset), b.add(s_at, offset)]
        w, g, *_ = inner.close([*steps, ahead(b, bias_at, BYTES)])
        _, _, p, s, bias = outer.values
        outer.close([w, g, b.add(p, line), b.add(s, line), b.add(bias, bias_line)])

    return signature, wrap(emit)


@njit(error_model="numpy")
def _gather(  # type: ignore[no-untyped-def]
    keys, queries, out, out_row, channel, width, values, values_second, weights, line, second, step, tiles, tile_count
):
    """Add to ``keys`` rows of keys what one or two rows of queries send them.

    Args:
        keys: how many.
        queries: how many.
        out: the packed gradient of the first row of keys, ``out_row`` bytes before the next.
        channel: bytes between channels of packed rows, and between offsets of rows of weights.
        width: channels.
        values: the packed first row of queries or gradients, ``values_second`` bytes before the second.
        weights: those of the first row of queries and the first row of keys at offset zero; ``line`` bytes to the next
            row of keys, ``second`` bytes to the second row of queries.
        step: bytes between offsets in the map.
        tiles: the plan's.
        tile_count: how many.
    """
    for j in range(0, keys, 2):
        rows = min(2, keys - j)
        for t in range(tile_count):
            tile = tiles + 40 * t
            x, dx, count = read(tile), read(tile + 24), read(tile + 32)
            at = 4 * (MARGIN + x) - dx * step
            w = weights + line * j + dx * channel + at
            sums = out + out_row * j + 4 * (MARGIN + x)
            add_values(
                rows, sums, out_row, channel, width, values + at, values_second, channel, -step,
                w, w + line, second, channel - step, queries, count
            )  # fmt: skip


@njit(error_model="numpy")
def _gather_strip(  # type: ignore[no-untyped-def]
    window, shift, rows, out, out_row, channel, width, values, weights, size, line, step, tiles, tile_count
):
    """Add what the rows of queries of a strip send to all rows of keys that they see; ``size`` bytes between both's."""
    second, between = channel * width, size - line * shift
    for part in range(3):
        first, lines, n, r = strip_part(part, window, shift, rows)
        sums, w, v = out + out_row * first, weights + line * first + between * r, values + second * r
        _gather(lines, n, sums, out_row, channel, width, v, second, w, line, between, step, tiles, tile_count)


@njit(error_model="numpy")
def _pack(half, source, row_step, column_step, columns, width, target, target_columns, rows, spare, factor):  # type: ignore[no-untyped-def]
    """Pack the first rows of a map of bfloat16 (``half``) or float32."""
    if half:
        pack_half(source, row_step, column_step, columns, width, target, target_columns, 0, rows, spare, factor)
    else:
        pack(source, row_step, column_step, columns, width, target, target_columns, 0, rows, spare, factor)


@njit(error_model="numpy")
def _store(half, source, channel, width, target, column_step, count, spare, factor):  # type: ignore[no-untyped-def]
    """Write the columns of a tile as bfloat16 (``half``) or float32."""
    if half:
        store_outputs_as_half(source, channel, width, target, column_step, count, spare, factor)
    else:
        store_outputs(source, channel, width, target, column_step, count, spare, factor)


@njit(error_model="numpy")
def _unpack(half, packed, channel, height, columns, width, target, row_step, column_step, spare, ones):  # type: ignore[no-untyped-def]
    """Invert ``_pack`` for a whole map."""
    for y in range(height):
        for x in range(0, columns, LANES):
            a, target_x = packed + y * width * channel + 4 * (MARGIN + x), target + y * row_step + x * column_step
            _store(half, a, channel, width, target_x, column_step, min(LANES, columns - x), spare, ones)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take images and do them; the order of ``p`` is that of ``numba_impl.py``."""
    counters, images, heads, height, columns, q_width, v_width = p[2], p[3], p[4], p[5], p[6], p[7], p[8]
    kernel_h, kernel_w, window_h, step_h, step_w = p[9], p[10], p[11], p[12], p[13]
    strips, strip_count, tiles, tile_count, masks, mask_offsets = p[14], p[15], p[16], p[17], p[18], p[19]
    factors, bias, packed, packed_size, packed_columns = p[20], p[21], p[22], p[23], p[24]
    scratch, scratch_size, weights_size = p[25], p[26], p[27]
    q, q_batch, q_head, q_row, q_column = p[28], p[29], p[30], p[31], p[32]
    k, k_batch, k_head, k_row, k_column = p[33], p[34], p[35], p[36], p[37]
    v, v_batch, v_head, v_row, v_column = p[38], p[39], p[40], p[41], p[42]
    g, g_batch, g_head, g_row, g_column = p[43], p[44], p[45], p[46], p[47]
    dq, dq_batch, dq_head, dq_row, dq_column = p[48], p[49], p[50], p[51], p[52]
    dk, dk_batch, dk_head, dk_row, dk_column = p[53], p[54], p[55], p[56], p[57]
    dv, dv_batch, dv_head, dv_row, dv_column = p[58], p[59], p[60], p[61], p[62]
    grad_bias, half = p[63], p[64]

    channel, offset, span = 4 * packed_columns, 4 * step_w, 2 * kernel_w - 1
    q_line, v_line, entries = channel * q_width, channel * v_width, (2 * kernel_h - 1) * span
    line = channel * span
    kept = line * window_h
    # This thread's own memory: a vector that nobody reads; of two rows one over the sums of weights, the gradients of
    # queries, the weights and their gradients of a tile; zeros; the gradient of the bias table, one vector an entry;
    # of two rows the scaled queries, the gradients, and of whole rows P and dS.
    number = take_number(counters + 8)
    spare = scratch + scratch_size * number
    inverses = spare + BYTES
    sums = inverses + 2 * BYTES
    weights = sums + 2 * BYTES * q_width
    grads = weights + 2 * weights_size
    zeros = grads + 2 * weights_size
    table = zeros + BYTES * mask_offsets
    queries = table + BYTES * entries
    outputs = queries + 2 * q_line
    row_p = outputs + 2 * v_line
    row_s = row_p + 2 * kept
    ones, scale = factors, factors + BYTES
    k_packed = packed + packed_size * number
    v_packed = k_packed + height * q_line
    k_sums = v_packed + height * v_line
    v_sums = k_sums + height * q_line
    fill(zeros, mask_offsets)
    fill(row_p, 4 * kept // BYTES)
    while True:
        image = take_number(counters)
        if image >= images:
            return
        batch, head = image // heads, image % heads
        a = k + batch * k_batch + head * k_head
        _pack(half, a, k_row, k_column, columns, q_width, k_packed, packed_columns, height, spare, ones)
        a = v + batch * v_batch + head * v_head
        _pack(half, a, v_row, v_column, columns, v_width, v_packed, packed_columns, height, spare, ones)
        fill(k_sums, height * (q_line + v_line) // BYTES)
        fill(table, entries)
        bias_head = bias + 4 * head * entries
        for s in range(strip_count):
            y_a, y_b, rows, shift, first_key, dy = read_strip(strips + 40 * s, step_h)
            for r in range(rows):
                y = y_b if r else y_a
                a = q + batch * q_batch + head * q_head + y * q_row
                _pack(half, a, 0, q_column, columns, q_width, queries + r * q_line, packed_columns, 1, spare, scale)
                a = g + batch * g_batch + head * g_head + y * g_row
                _pack(half, a, 0, g_column, columns, v_width, outputs + r * v_line, packed_columns, 1, spare, ones)
            for t in range(tile_count):
                tile = tiles + 40 * t
                x, dx, count = read(tile), read(tile + 8), read(tile + 16)
                here, at = 4 * (MARGIN + x), 4 * (MARGIN + x + dx * step_w)
                entry = (dy + kernel_h - 1) * span + dx + kernel_w - 1
                mask = masks + BYTES * mask_offsets * t
                k_tile, v_tile = k_packed + q_line * first_key + at, v_packed + v_line * first_key + at
                score_tile(
                    window_h, shift, rows, queries + here, q_line, channel, q_width, k_tile, q_line * step_h, channel,
                    offset, bias_head + 4 * entry, 4 * span, mask, ones, weights, weights_size, count
                )  # fmt: skip
                score_tile(
                    window_h, shift, rows, outputs + here, v_line, channel, v_width, v_tile, v_line * step_h, channel,
                    offset, zeros, 0, zeros, ones, grads, weights_size, count
                )  # fmt: skip
                vectors = window_h * count
                in_row = channel * (dx + kernel_w - 1) + here
                groups = (vectors + UNROLLED - 1) // UNROLLED
                for r in range(rows):
                    w, dp, inverse = weights + r * weights_size, grads + r * weights_size, inverses + r * BYTES
                    softmax_tile(False, w, window_h, count, inverse)
                    fill(dp + BYTES * vectors, UNROLLED)
                    _differentiate(
                        w, dp, groups, inverse, window_h, count, row_p + r * kept + in_row, row_s + r * kept + in_row,
                        line, channel, table + BYTES * (entry + r * (shift - 1) * span), BYTES * span
                    )  # fmt: skip
                value_tile(
                    window_h, shift, rows, sums, q_width, k_tile, q_line * step_h, channel, offset,
                    row_s + in_row, kept, line, channel, count
                )  # fmt: skip
                for r in range(rows):
                    a = dq + batch * dq_batch + head * dq_head + (y_b if r else y_a) * dq_row + x * dq_column
                    valid = min(LANES, columns - x)
                    _store(half, sums + r * BYTES * q_width, BYTES, q_width, a, dq_column, valid, spare, scale)
            zero = channel * (kernel_w - 1)
            _gather_strip(
                window_h, shift, rows, k_sums + q_line * first_key, q_line * step_h, channel, q_width, queries,
                row_s + zero, kept, line, offset, tiles, tile_count
            )  # fmt: skip
            _gather_strip(
                window_h, shift, rows, v_sums + v_line * first_key, v_line * step_h, channel, v_width, outputs,
                row_p + zero, kept, line, offset, tiles, tile_count
            )  # fmt: skip
        a = dk + batch * dk_batch + head * dk_head
        _unpack(half, k_sums, channel, height, columns, q_width, a, dk_row, dk_column, spare, ones)
        a = dv + batch * dv_batch + head * dv_head
        _unpack(half, v_sums, channel, height, columns, v_width, a, dv_row, dv_column, spare, ones)
        add_lanes(table, entries, grad_bias + 4 * entries * image)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint(numba_kernels.__file__))
KERNEL: int = _COMPILED.address
