"""Neighborhood attention in bfloat16 on CPUs that multiply pairs of them (AVX512-BF16), twice as many as of float32.

The forward of ``numba_kernels.py``, read and written in bfloat16. What it multiplies are *pairs*, side by side in 32
bits: of scores, two neighboring channels of queries and keys; of outputs, the weights at two neighboring offsets and
the values that stand there. So packed keys are half as long, and packed values hold, at every position, its own value
and that of the position one offset on; weights are rounded to bfloat16 before they are added up. Sums, biases and the
softmax are float32.

:data:`KERNEL` is the address of the compiled function; ``numba_impl.py`` says what its argument holds.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from a2mamba.ops.neighborhood import numba_kernels
from a2mamba.ops.neighborhood.numba_kernels import (
    MARGIN,
    read_strip,
    softmax_tile,
    store_outputs_as_half,
    tile_functions,
)
from a2mamba.ops.numba_vectors import (
    BYTES,
    LANES,
    Loop,
    ahead,
    constant,
    fill,
    fingerprint,
    intrinsic,
    kernel,
    load,
    pair,
    pair_fma,
    procedure,
    read,
    store,
    take_number,
    write_channel_pairs,
    write_position_pairs,
)

_score_tile, _, _value_tile = tile_functions(pair_fma)


@intrinsic
def _pair_weights(typing, source, target, count):  # type: ignore[no-untyped-def]
    """Write ``count`` >= 1 vectors of pairs of twice as many vectors of weights; ``target`` may be ``source``."""
    signature, wrap = procedure(3)

    def emit(b, source, target, count):  # type: ignore[no-untyped-def]
        loop = Loop(b, count, [source, target])
        source, target = loop.values
        store(b, pair(b, load(b, source), load(b, ahead(b, source, BYTES))), target)
        loop.close([ahead(b, source, 2 * BYTES), ahead(b, target, BYTES)])

    return signature, wrap(emit)


@intrinsic
def _pair_last(typing, source, target):  # type: ignore[no-untyped-def]
    """Write pairs of a vector of weights with zeros."""
    signature, wrap = procedure(2)
    return signature, wrap(lambda b, source, target: store(b, pair(b, load(b, source), constant(0.0)), target))


@njit(error_model="numpy")
def _pair_tile(weights, window, count):  # type: ignore[no-untyped-def]
    """Turn ``window`` rows of ``count`` weights into pairs, in place; a row of odd length ends with a pair of one."""
    pairs = (count + 1) // 2
    for j in range(window):
        source, target = weights + BYTES * count * j, weights + BYTES * pairs * j
        if count > 1:
            _pair_weights(source, target, count // 2)
        if count % 2:
            _pair_last(source + BYTES * (count - 1), target + BYTES * (pairs - 1))


@njit(error_model="numpy")
def _clear(row, channel, channels, first, vectors):  # type: ignore[no-untyped-def]
    """Write so many vectors of zeros into every channel of a packed row, after the ``first`` ones."""
    for c in range(channels):
        fill(row + c * channel + BYTES * first, vectors)


@njit(error_model="numpy")
def _pack_keys(source, row_step, column_step, columns, cells, target, target_columns, first, last, zeros):  # type: ignore[no-untyped-def]
    """Pack rows ``first`` to ``last``: (H, W, 2 cells) -> (H, cells, target_columns), margins of zeros."""
    channel = 4 * target_columns
    for y in range(first, last):
        for c in range(0, cells, LANES):
            cell = min(c, cells - LANES)
            row = target + (y * cells + cell) * channel
            for x in range(0, columns, LANES):
                a = source + y * row_step + 4 * cell
                write_channel_pairs(a, column_step, x, columns, 0, row + 4 * (MARGIN + x), channel, zeros)
        _clear(target + y * cells * channel, channel, cells, 0, MARGIN // LANES)
        _clear(target + y * cells * channel, channel, cells, target_columns // LANES - 1, 1)


@njit(error_model="numpy")
def _pack_values(source, row_step, column_step, columns, width, shift, target, target_columns, first, last, zeros):  # type: ignore[no-untyped-def]
    """Pack rows ``first`` to ``last``: (H, W, width) -> (H, width, target_columns), each with its ``shift``-th next."""
    channel = 4 * target_columns
    for y in range(first, last):
        for block in range(0, width, LANES):
            c = min(block, width - LANES)
            row = target + (y * width + c) * channel
            for x in range(-MARGIN, columns, LANES):
                a = source + y * row_step + 2 * c
                write_position_pairs(a, column_step, x, columns, shift, row + 4 * (MARGIN + x), channel, zeros)
        _clear(target + y * width * channel, channel, width, target_columns // LANES - 1, 1)


@njit(error_model="numpy")
def _work(p):  # type: ignore[no-untyped-def]
    """Take items and do them; the order of ``p`` is that of ``numba_impl.py``."""
    counters, items, heads, height, columns, q_width, v_width = p[2], p[3], p[4], p[5], p[6], p[7], p[8]
    kernel_h, kernel_w, window_h, step_h, step_w = p[9], p[10], p[11], p[12], p[13]
    strips, strip_count, tiles, tile_count, masks, mask_offsets = p[14], p[15], p[16], p[17], p[18], p[19]
    factors, bias, packed, packed_size, packed_columns = p[20], p[21], p[22], p[23], p[24]
    scratch, scratch_size, weights_size = p[25], p[26], p[27]
    q, q_batch, q_head, q_row, q_column = p[28], p[29], p[30], p[31], p[32]
    k, k_batch, k_head, k_row, k_column = p[33], p[34], p[35], p[36], p[37]
    v, v_batch, v_head, v_row, v_column = p[38], p[39], p[40], p[41], p[42]
    out, out_batch, out_head, out_row, out_column = p[43], p[44], p[45], p[46], p[47]
    phase, chunks, stored, stored_size, known = p[48], p[49], p[50], p[51], p[52]

    cells = q_width // 2
    mine = scratch + scratch_size * take_number(counters + 8)
    spare = mine
    zeros = spare + BYTES
    inverses = zeros + BYTES
    queries = inverses + 2 * BYTES
    sums = queries + 2 * BYTES * cells
    weights = sums + 2 * BYTES * v_width
    scale = factors + BYTES
    channel, offset, q_second, v_second = 4 * packed_columns, 4 * step_w, BYTES * cells, BYTES * v_width
    k_step, v_step = channel * cells * step_h, channel * v_width * step_h
    span = 2 * kernel_w - 1
    fill(zeros, 1)
    while True:
        item = take_number(counters)
        if item >= items:
            return
        image, chunk = item // chunks, item % chunks
        batch, head = image // heads, image % heads
        k_packed = packed + packed_size * (image if phase else (mine - scratch) // scratch_size)
        v_packed = k_packed + channel * height * cells
        if phase != 2:
            first, last = height * chunk // chunks, height * (chunk + 1) // chunks
            if not known:
                a = k + batch * k_batch + head * k_head
                _pack_keys(a, k_row, k_column, columns, cells, k_packed, packed_columns, first, last, zeros)
            a = v + batch * v_batch + head * v_head
            _pack_values(a, v_row, v_column, columns, v_width, step_w, v_packed, packed_columns, first, last, zeros)
        if phase == 1:
            continue
        q_image = q + batch * q_batch + head * q_head
        out_image = out + batch * out_batch + head * out_head
        bias_head = bias + 4 * head * (2 * kernel_h - 1) * span
        for s in range(strip_count * chunk // chunks, strip_count * (chunk + 1) // chunks):
            y_a, y_b, rows, shift, first_key, dy = read_strip(strips + 40 * s, step_h)
            for t in range(tile_count):
                tile = tiles + 40 * t
                x, dx, count = read(tile), read(tile + 8), read(tile + 16)
                pairs = (count + 1) // 2
                at = 4 * (MARGIN + x + dx * step_w)
                if stored:
                    weights = stored + stored_size * image + 2 * (weights_size + BYTES) * (tile_count * s + t)
                    inverses = weights + 2 * weights_size
                if not known:
                    for r in range(rows):
                        for c in range(0, cells, LANES):
                            cell = min(c, cells - LANES)
                            a = q_image + (y_b if r else y_a) * q_row + 4 * cell
                            to = queries + r * q_second + BYTES * cell
                            write_channel_pairs(a, q_column, x, columns, 0, to, BYTES, zeros)
                    a = k_packed + channel * cells * first_key + at
                    mask = masks + BYTES * mask_offsets * t
                    first_bias = bias_head + 4 * ((dy + kernel_h - 1) * span + dx + kernel_w - 1)
                    _score_tile(
                        window_h, shift, rows, queries, q_second, BYTES, cells, a, k_step, channel, offset,
                        first_bias, 4 * span, mask, scale, weights, weights_size, count
                    )  # fmt: skip
                    for r in range(rows):
                        softmax_tile(True, weights + r * weights_size, window_h, count, inverses + r * BYTES)
                        _pair_tile(weights + r * weights_size, window_h, count)
                a, line = v_packed + channel * v_width * first_key + at, BYTES * pairs
                _value_tile(
                    window_h, shift, rows, sums, v_width, a, v_step, channel, 2 * offset,
                    weights, weights_size, line, BYTES, pairs
                )  # fmt: skip
                for r in range(rows):
                    a = out_image + (y_b if r else y_a) * out_row + x * out_column
                    valid = min(LANES, columns - x)
                    own, inverse = sums + r * v_second, inverses + r * BYTES
                    store_outputs_as_half(own, BYTES, v_width, a, out_column, valid, spare, inverse)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint(numba_kernels.__file__))
KERNEL: int = _COMPILED.address
