"""Neighborhood attention on CPUs: vectors of eight neighboring queries, exact windows.

Keys and values of one head are first *packed*: every row of the map becomes one row of memory a channel. Then the
keys that eight queries side by side see at one offset lie side by side too, whatever the dilation, and a score of eight
queries is one chain of multiply-adds without any gather. Dilation only changes the distance between offsets.

A *strip* is one row of queries, or two that are neighbors in their class of rows and share all but one row of keys; a
*tile* is eight columns. For one strip and one tile, all scores fit into the first-level cache: they are computed
block by block, become weights in place, and are then multiplied into the values. Vertically the windows are exact.
Horizontally the tiles at a border hold queries whose windows lie at different offsets; their tile computes the union,
and a mask removes what is outside.

:data:`KERNEL` is the address of the compiled function; ``numba_impl.py`` says what its argument holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import cfunc, njit, types

from a2mamba.ops.numba_vectors import (
    BYTES,
    FINGERPRINT,
    LANES,
    Loop,
    ahead,
    constant,
    exp,
    fill,
    fma,
    intrinsic,
    load,
    load_splat,
    maximum,
    procedure,
    read,
    store,
    take_number,
    transpose,
)

MARGIN = LANES
"""Zeros on both sides of a packed row: queries of a tile may look this far beyond the map, for offsets of others."""

UNROLLED = 4
"""Vectors of scores that the softmax handles at once; scores are padded to a multiple."""


def _scores(rows: int, offsets: int) -> Callable[..., Any]:
    """Return an intrinsic for the scores of ``rows`` rows of queries (1 or 2) at so many consecutive offsets.

    score[r][o] = bias_r[o] + mask[o] + sum over c of q[r][c] * k[c][o]. All sums are registers, and a vector of
    keys is loaded once for both rows.
    """

    @intrinsic
    def block(typing, q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(11)

        def emit(b, q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b):  # type: ignore[no-untyped-def]
            biases, outs = (bias_a, bias_b)[:rows], (out_a, out_b)[:rows]
            sums = [
                b.fadd(load_splat(b, ahead(b, bias, 4 * o)), load(b, ahead(b, mask, BYTES * o)))
                for bias in biases
                for o in range(offsets)
            ]
            loop = Loop(b, width, [q, k, *sums])
            q, k, *sums = loop.values
            queries = [load(b, q), *([load(b, b.add(q, q_row))] if rows == 2 else [])]
            address = k
            for o in range(offsets):
                key = load(b, address)
                address = b.add(address, k_offset)
                for r in range(rows):
                    sums[r * offsets + o] = fma(b, queries[r], key, sums[r * offsets + o])
            _, _, *sums = loop.close([ahead(b, q, BYTES), b.add(k, k_channel), *sums])
            for r in range(rows):
                for o in range(offsets):
                    store(b, sums[r * offsets + o], ahead(b, outs[r], BYTES * o))

        return signature, wrap(emit)

    return block


def _values(rows: int, channels: int) -> Callable[..., Any]:
    """Return an intrinsic that adds the weighted values of ``channels`` channels to ``rows`` rows of outputs.

    out[r][c] += sum over key rows j and offsets o of weight_r[j][o] * v[j][c][o].
    """

    @intrinsic
    def block(typing, out, out_row, v, v_row, v_channel, v_offset, weight_a, weight_b, weight_row, key_rows, offsets):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(11)

        def emit(  # type: ignore[no-untyped-def]
            b, out, out_row, v, v_row, v_channel, v_offset, weight_a, weight_b, weight_row, key_rows, offsets
        ):
            weights = [weight_a, weight_b][:rows]
            targets = [out, b.add(out, out_row)][:rows]
            sums = [load(b, ahead(b, target, BYTES * c)) for target in targets for c in range(channels)]
            outer = Loop(b, key_rows, [v, *weights, *sums])
            inner = Loop(b, offsets, outer.values)
            v, weights, sums = inner.values[0], inner.values[1 : 1 + rows], inner.values[1 + rows :]
            factors = [load(b, weight) for weight in weights]
            address = v
            for c in range(channels):
                value = load(b, address)
                address = b.add(address, v_channel)
                for r in range(rows):
                    sums[r * channels + c] = fma(b, factors[r], value, sums[r * channels + c])
            sums = inner.close([b.add(v, v_offset), *(ahead(b, w, BYTES) for w in weights), *sums])[1 + rows :]
            v, weights = outer.values[0], outer.values[1 : 1 + rows]
            sums = outer.close([b.add(v, v_row), *(b.add(w, weight_row) for w in weights), *sums])[1 + rows :]
            for r, target in enumerate(targets):
                for c in range(channels):
                    store(b, sums[r * channels + c], ahead(b, target, BYTES * c))

        return signature, wrap(emit)

    return block


@intrinsic
def _softmax(typing, scores, groups, inverse):  # type: ignore[no-untyped-def]
    """Turn scores into exp(score - maximum) in place; write one over their sum to ``inverse``."""
    signature, wrap = procedure(3)

    def emit(b, scores, groups, inverse):  # type: ignore[no-untyped-def]
        loop = Loop(b, groups, [scores, *[load(b, scores)] * UNROLLED])
        address, *largest = loop.values
        largest = [maximum(b, load(b, ahead(b, address, BYTES * i)), m) for i, m in enumerate(largest)]
        _, *largest = loop.close([ahead(b, address, BYTES * UNROLLED), *largest])
        top = maximum(b, maximum(b, largest[0], largest[1]), maximum(b, largest[2], largest[3]))
        loop = Loop(b, groups, [scores, *[constant(0.0)] * UNROLLED])
        address, *sums = loop.values
        for i in range(UNROLLED):
            weight = exp(b, b.fsub(load(b, ahead(b, address, BYTES * i)), top))
            store(b, weight, ahead(b, address, BYTES * i))
            sums[i] = b.fadd(sums[i], weight)
        _, *sums = loop.close([ahead(b, address, BYTES * UNROLLED), *sums])
        total = b.fadd(b.fadd(sums[0], sums[1]), b.fadd(sums[2], sums[3]))
        store(b, b.fdiv(constant(1.0), total), inverse)

    return signature, wrap(emit)


@intrinsic
def _exclude(typing, scores):  # type: ignore[no-untyped-def]
    """Write one vector of minus infinity."""
    signature, wrap = procedure(1)
    return signature, wrap(lambda b, scores: store(b, constant(float("-inf")), scores))


_one_1, _one_2, _one_3, _one_4, _one_5, _one_6 = (_scores(1, offsets) for offsets in range(1, 7))
_two_1, _two_2, _two_3, _two_4, _two_5, _two_6 = (_scores(2, offsets) for offsets in range(1, 7))
_value_one_4, _value_one_8 = (_values(1, channels) for channels in (4, 8))
_value_two_4, _value_two_8 = (_values(2, channels) for channels in (4, 8))

# Six offsets of two rows are twelve sums, which leaves registers for their operands where there are sixteen.
_LARGEST = 6


@njit(error_model="numpy")
def _score_row(rows, q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b, count):  # type: ignore[no-untyped-def]
    """Compute the scores of one row of keys at ``count`` offsets, in blocks of nearly one size."""
    blocks = (count + _LARGEST - 1) // _LARGEST
    size = count // blocks
    larger = count - size * blocks
    for i in range(blocks):
        n = size + 1 if i < larger else size
        if rows == 2:
            if n == 6:
                _two_6(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
            elif n == 5:
                _two_5(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
            elif n == 4:
                _two_4(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
            elif n == 3:
                _two_3(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
            elif n == 2:
                _two_2(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
            else:
                _two_1(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
        elif n == 6:
            _one_6(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
        elif n == 5:
            _one_5(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
        elif n == 4:
            _one_4(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
        elif n == 3:
            _one_3(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
        elif n == 2:
            _one_2(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
        else:
            _one_1(q, q_row, width, k, k_channel, k_offset, bias_a, bias_b, mask, out_a, out_b)
        k += n * k_offset
        bias_a += 4 * n
        bias_b += 4 * n
        mask += BYTES * n
        out_a += BYTES * n
        out_b += BYTES * n


@njit(error_model="numpy")
def _add_values(  # type: ignore[no-untyped-def]
    rows, out, out_row, width, v, v_row, v_channel, v_offset, weight_a, weight_b, weight_row, key_rows, offsets
):
    """Add the weighted values of ``key_rows`` rows of keys to one or two rows of outputs, all ``width`` channels."""
    c = 0
    while width - c >= 8:
        a, v_c = out + BYTES * c, v + v_channel * c
        if rows == 2:
            _value_two_8(a, out_row, v_c, v_row, v_channel, v_offset, weight_a, weight_b, weight_row, key_rows, offsets)
        else:
            _value_one_8(a, out_row, v_c, v_row, v_channel, v_offset, weight_a, weight_b, weight_row, key_rows, offsets)
        c += 8
    if c < width:
        a, v_c = out + BYTES * c, v + v_channel * c
        if rows == 2:
            _value_two_4(a, out_row, v_c, v_row, v_channel, v_offset, weight_a, weight_b, weight_row, key_rows, offsets)
        else:
            _value_one_4(a, out_row, v_c, v_row, v_channel, v_offset, weight_a, weight_b, weight_row, key_rows, offsets)


@njit(error_model="numpy")
def _pack(source, row_step, column_step, columns, width, target, target_columns, first, last, spare, ones):  # type: ignore[no-untyped-def]
    """Pack rows ``first`` to ``last`` of a map: (H, W, width) of any strides -> (H, width, target_columns)."""
    channel = 4 * target_columns
    filled = MARGIN + (columns + LANES - 1) // LANES * LANES
    for y in range(first, last):
        row = target + y * width * channel
        for c in range(width):
            fill(row + c * channel, MARGIN // LANES)
            fill(row + c * channel + 4 * filled, (target_columns - filled) // LANES)
        for x in range(0, columns, LANES):
            count = min(LANES, columns - x)
            for block in range(0, width, LANES):
                c = min(block, width - LANES)
                a = source + y * row_step + x * column_step + 4 * c
                transpose(a, column_step, count, row + c * channel + 4 * (MARGIN + x), channel, LANES, spare, ones)


@njit(error_model="numpy")
def _load_queries(source, column_step, count, width, target, spare, scale):  # type: ignore[no-untyped-def]
    """Write the scaled queries of a tile as (width, 8)."""
    for block in range(0, width, LANES):
        c = min(block, width - LANES)
        transpose(source + 4 * c, column_step, count, target + BYTES * c, BYTES, LANES, spare, scale)


@njit(error_model="numpy")
def _store_outputs(source, width, target, column_step, count, spare, factor):  # type: ignore[no-untyped-def]
    """Write (width, 8) sums, multiplied by one over their weights' sums, to the positions of a tile."""
    for block in range(0, width, LANES):
        c = min(block, width - LANES)
        transpose(source + BYTES * c, BYTES, LANES, target + 4 * c, column_step, count, spare, factor)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.forward``."""
    counters, items, phase, pieces = p[0], p[1], p[2], p[3]
    heads, height, columns, q_width, v_width = p[4], p[5], p[6], p[7], p[8]
    q, q_batch, q_head, q_row, q_column = p[9], p[10], p[11], p[12], p[13]
    k, k_batch, k_head, k_row, k_column = p[14], p[15], p[16], p[17], p[18]
    v, v_batch, v_head, v_row, v_column = p[19], p[20], p[21], p[22], p[23]
    out, out_batch, out_head, out_row, out_column = p[24], p[25], p[26], p[27], p[28]
    bias, kernel_h, kernel_w, window_h, step_h, step_w = p[29], p[30], p[31], p[32], p[33], p[34]
    strips, strip_count, tiles, tile_count, masks, mask_offsets = p[35], p[36], p[37], p[38], p[39], p[40]
    factors, packed, packed_size, packed_columns = p[41], p[42], p[43], p[44]
    scratch, scratch_size, weights_size = p[45], p[46], p[47]

    # This thread's own memory: a vector that nobody reads; of two rows one over the sums of weights, the queries, the
    # outputs and the weights.
    mine = scratch + scratch_size * take_number(counters + 8)
    spare = mine
    inverses = spare + BYTES
    queries = inverses + 2 * BYTES
    sums = queries + 2 * BYTES * q_width
    weights_a = sums + 2 * BYTES * v_width
    weights_b = weights_a + weights_size
    ones, scale = factors, factors + BYTES
    # Bytes: between channels of packed rows, between offsets, between the two rows of queries and of outputs.
    channel, offset, q_second, v_second = 4 * packed_columns, 4 * step_w, BYTES * q_width, BYTES * v_width
    span = 2 * kernel_w - 1
    while True:
        item = take_number(counters)
        if item >= items:
            return
        image, piece = item // pieces, item % pieces
        batch, head = image // heads, image % heads
        # Whoever works on a whole image packs it into memory of its own; otherwise all images are packed first.
        k_packed = packed + packed_size * (image if phase else (mine - scratch) // scratch_size)
        v_packed = k_packed + channel * height * q_width
        if phase != 2:
            first, last = height * piece // pieces, height * (piece + 1) // pieces
            a = k + batch * k_batch + head * k_head
            _pack(a, k_row, k_column, columns, q_width, k_packed, packed_columns, first, last, spare, ones)
            a = v + batch * v_batch + head * v_head
            _pack(a, v_row, v_column, columns, v_width, v_packed, packed_columns, first, last, spare, ones)
        if phase == 1:
            continue
        q_image = q + batch * q_batch + head * q_head
        out_image = out + batch * out_batch + head * out_head
        bias_head = bias + 4 * head * (2 * kernel_h - 1) * span
        for s in range(strip_count * piece // pieces, strip_count * (piece + 1) // pieces):
            strip = strips + 40 * s
            y_a, y_b, p_a = read(strip), read(strip + 8), read(strip + 16)
            start_a, start_b = read(strip + 24), read(strip + 32)
            rows = 2 if y_b >= 0 else 1
            # The first ``shift`` rows of keys are seen by the first row of queries only, the last by the second only.
            shift = start_b - start_a if rows == 2 else 0
            shared = window_h - shift
            first_key = y_a + (start_a - p_a) * step_h
            for t in range(tile_count):
                tile = tiles + 24 * t
                x, dx, count = read(tile), read(tile + 8), read(tile + 16)
                valid = min(LANES, columns - x)
                mask = masks + BYTES * mask_offsets * t
                line = BYTES * count
                at = 4 * (MARGIN + x + dx * step_w)

                for r in range(rows):
                    a = q_image + (y_b if r else y_a) * q_row + x * q_column
                    _load_queries(a, q_column, valid, q_width, queries + r * q_second, spare, scale)
                for j in range(window_h + shift):
                    a = k_packed + channel * q_width * (first_key + j * step_h) + at
                    bias_a = bias_head + 4 * ((start_a + j - p_a + kernel_h - 1) * span + dx + kernel_w - 1)
                    bias_b = bias_a - 4 * span
                    w_a, w_b = weights_a + line * j, weights_b + line * (j - shift)
                    if rows == 1 or j < shift:
                        _score_row(1, queries, 0, q_width, a, channel, offset, bias_a, 0, mask, w_a, 0, count)
                    elif j >= window_h:
                        b = queries + q_second
                        _score_row(1, b, 0, q_width, a, channel, offset, bias_b, 0, mask, w_b, 0, count)
                    else:
                        b = q_second
                        _score_row(2, queries, b, q_width, a, channel, offset, bias_a, bias_b, mask, w_a, w_b, count)

                vectors = count * window_h
                groups = (vectors + UNROLLED - 1) // UNROLLED
                for r in range(rows):
                    w = weights_a + r * weights_size
                    for i in range(vectors, groups * UNROLLED):
                        _exclude(w + BYTES * i)
                    _softmax(w, groups, inverses + r * BYTES)

                fill(sums, 2 * v_width)
                row = channel * v_width * step_h
                a = v_packed + channel * v_width * first_key + at
                if shift:
                    _add_values(1, sums, 0, v_width, a, row, channel, offset, weights_a, 0, line, shift, count)
                    b, w_b = a + row * window_h, weights_b + line * shared
                    _add_values(1, sums + v_second, 0, v_width, b, row, channel, offset, w_b, 0, line, shift, count)
                if shared:
                    a, b, w_a = a + row * shift, weights_b, weights_a + line * shift
                    _add_values(rows, sums, v_second, v_width, a, row, channel, offset, w_a, b, line, shared, count)
                for r in range(rows):
                    a = out_image + (y_b if r else y_a) * out_row + x * out_column
                    inverse = inverses + r * BYTES
                    _store_outputs(sums + r * v_second, v_width, a, out_column, valid, spare, inverse)


def _compile(fingerprint: int) -> Any:
    @cfunc(types.void(types.CPointer(types.int64)), cache=True, error_model="numpy")
    def kernel(p):  # type: ignore[no-untyped-def]
        if fingerprint:  # always; see there
            _work(p)

    return kernel


_COMPILED = _compile(FINGERPRINT)
KERNEL: int = _COMPILED.address
