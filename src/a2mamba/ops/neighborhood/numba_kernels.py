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

from numba import njit

from a2mamba.ops.numba_vectors import (
    BYTES,
    LANES,
    Loop,
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
    maximum,
    procedure,
    read,
    round_to_half,
    store,
    take_number,
    transpose,
    transpose_from_half,
    transpose_to_half,
)

MARGIN = LANES
"""Zeros on both sides of a packed row: queries of a tile may look this far beyond the map, for offsets of others."""

UNROLLED = 4
"""Vectors of scores that the softmax handles at once; scores are padded to a multiple."""


Product = Any
"""``fma``, or another that adds products of two vectors to a third."""


def _scores(product: Product, rows: int, offsets: int) -> Callable[..., Any]:
    """Return an intrinsic for the scores of ``rows`` rows of queries (1 or 2) at so many consecutive offsets.

    score[r][o] = bias_r[o] + mask[o] + scale * sum over c of q[r][c] * k[c][o]. All sums are registers, and a vector of
    keys is loaded once for both rows.
    """

    @intrinsic
    def block(  # type: ignore[no-untyped-def]
        typing, q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b
    ):
        signature, wrap = procedure(13)

        def emit(  # type: ignore[no-untyped-def]
            b, q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b
        ):
            biases, outs = (bias_a, bias_b)[:rows], (out_a, out_b)[:rows]
            loop = Loop(b, width, [q, k, *[constant(0.0)] * (rows * offsets)])
            q, k, *sums = loop.values
            queries = [load(b, q), *([load(b, b.add(q, q_row))] if rows == 2 else [])]
            address = k
            for o in range(offsets):
                key = load(b, address)
                address = b.add(address, k_offset)
                for r in range(rows):
                    sums[r * offsets + o] = product(b, queries[r], key, sums[r * offsets + o])
            _, _, *sums = loop.close([b.add(q, q_channel), b.add(k, k_channel), *sums])
            factor = load(b, scale)
            for r in range(rows):
                for o in range(offsets):
                    added = b.fadd(load_splat(b, ahead(b, biases[r], 4 * o)), load(b, ahead(b, mask, BYTES * o)))
                    store(b, fma(b, sums[r * offsets + o], factor, added), ahead(b, outs[r], BYTES * o))

        return signature, wrap(emit)

    return block


def _values(product: Product, rows: int, channels: int) -> Callable[..., Any]:
    """Return an intrinsic that adds the weighted values of ``channels`` channels to ``rows`` rows of outputs.

    out[r][c] += sum over ``lines`` lines j and offsets o of weight_r[j][o] * v[j][c][o].
    """

    @intrinsic
    def block(  # type: ignore[no-untyped-def]
        typing, out, out_row, out_channel, v, v_line, v_channel, v_offset, w_a, w_b, w_line, w_offset, lines, offsets
    ):
        signature, wrap = procedure(13)

        def emit(  # type: ignore[no-untyped-def]
            b, out, out_row, out_channel, v, v_line, v_channel, v_offset, w_a, w_b, w_line, w_offset, lines, offsets
        ):
            weights = [w_a, w_b][:rows]
            targets = [
                b.add(row, b.mul(out_channel, integer(c)))
                for row in [out, b.add(out, out_row)][:rows]
                for c in range(channels)
            ]
            sums = [load(b, target) for target in targets]
            outer = Loop(b, lines, [v, *weights, *sums])
            inner = Loop(b, offsets, outer.values)
            v, weights, sums = inner.values[0], inner.values[1 : 1 + rows], inner.values[1 + rows :]
            factors = [load(b, weight) for weight in weights]
            address = v
            for c in range(channels):
                value = load(b, address)
                address = b.add(address, v_channel)
                for r in range(rows):
                    sums[r * channels + c] = product(b, factors[r], value, sums[r * channels + c])
            sums = inner.close([b.add(v, v_offset), *(b.add(w, w_offset) for w in weights), *sums])[1 + rows :]
            v, weights = outer.values[0], outer.values[1 : 1 + rows]
            sums = outer.close([b.add(v, v_line), *(b.add(w, w_line) for w in weights), *sums])[1 + rows :]
            for total, target in zip(sums, targets, strict=True):
                store(b, total, target)

        return signature, wrap(emit)

    return block


def _exponentials(half: bool) -> Callable[..., Any]:
    """Return an intrinsic that turns scores into exp(score - maximum) in place, and writes one over their sum.

    ``half``: they are rounded to what bfloat16 can hold, before they are added: the weights still add up to one.
    """

    @intrinsic
    def softmax(typing, scores, groups, inverse):  # type: ignore[no-untyped-def]
        signature, wrap = procedure(3)
        return signature, wrap(emit)

    def emit(b, scores, groups, inverse):  # type: ignore[no-untyped-def]
        loop = Loop(b, groups, [scores, *[load(b, scores)] * UNROLLED])
        address, *largest = loop.values
        largest = [maximum(b, load(b, ahead(b, address, BYTES * i)), m) for i, m in enumerate(largest)]
        _, *largest = loop.close([ahead(b, address, BYTES * UNROLLED), *largest])
        top = maximum(b, maximum(b, largest[0], largest[1]), maximum(b, largest[2], largest[3]))
        loop = Loop(b, groups, [scores, *[constant(0.0)] * UNROLLED])
        address, *sums = loop.values
        for i in range(UNROLLED):
            weight = exp(b, b.fsub(load(b, ahead(b, address, BYTES * i)), top), half=half)
            if half:
                weight = round_to_half(b, weight)
            store(b, weight, ahead(b, address, BYTES * i))
            sums[i] = b.fadd(sums[i], weight)
        _, *sums = loop.close([ahead(b, address, BYTES * UNROLLED), *sums])
        total = b.fadd(b.fadd(sums[0], sums[1]), b.fadd(sums[2], sums[3]))
        store(b, b.fdiv(constant(1.0), total), inverse)

    return softmax


_softmax, _softmax_half = _exponentials(False), _exponentials(True)


@intrinsic
def _exclude(typing, scores):  # type: ignore[no-untyped-def]
    """Write one vector of minus infinity."""
    signature, wrap = procedure(1)
    return signature, wrap(lambda b, scores: store(b, constant(float("-inf")), scores))


# Six offsets of two rows are twelve sums, which leaves registers for their operands where there are sixteen.
_LARGEST = 6


@njit(error_model="numpy")
def strip_part(part, window, shift, rows):  # type: ignore[no-untyped-def]
    """Return, of a strip's three parts, the first row of keys, how many, and how many rows of queries from which.

    The first ``shift`` rows of keys are seen by the first row of queries only, the last by the second only.
    """
    if part == 0:
        return 0, shift, 1, 0
    if part == 1:
        return window, shift, 1, 1
    return shift, window - shift, rows, 0


@njit(error_model="numpy")
def softmax_tile(half, weights, window, count, inverse):  # type: ignore[no-untyped-def]
    """Turn scores of :func:`score_tile` into weights, which still lack the factor written to ``inverse``.

    ``half``: into weights that bfloat16 can hold.
    """
    vectors = count * window
    groups = (vectors + UNROLLED - 1) // UNROLLED
    for i in range(vectors, groups * UNROLLED):
        _exclude(weights + BYTES * i)
    if half:
        _softmax_half(weights, groups, inverse)
    else:
        _softmax(weights, groups, inverse)


def tile_functions(product: Product) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """Return ``score_tile``, ``add_values`` and ``value_tile`` whose multiply-adds are ``product``."""

    def compiled(function: Callable[..., Any]) -> Any:
        # What differs must have another name: of two functions of one name, one compiled and one read from Numba's
        # cache on disk, a process may call either for the other.
        function.__qualname__ += f"_{product.__name__}"
        return njit(error_model="numpy")(function)

    one_1, one_2, one_3, one_4, one_5, one_6 = (_scores(product, 1, offsets) for offsets in range(1, 7))
    two_1, two_2, two_3, two_4, two_5, two_6 = (_scores(product, 2, offsets) for offsets in range(1, 7))
    value_one_4, value_one_8 = (_values(product, 1, channels) for channels in (4, 8))
    value_two_4, value_two_8 = (_values(product, 2, channels) for channels in (4, 8))

    @compiled
    def score_row(  # type: ignore[no-untyped-def]
        rows, q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b, count
    ):
        """Compute the scores of one row of keys at ``count`` offsets, in blocks of nearly one size."""
        # Numba resolves what is called while it compiles: it has no tables of intrinsics to choose from by number.
        blocks = (count + _LARGEST - 1) // _LARGEST
        size = count // blocks
        larger = count - size * blocks
        for i in range(blocks):
            n = size + 1 if i < larger else size
            if rows == 2:
                if n == 6:
                    two_6(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
                elif n == 5:
                    two_5(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
                elif n == 4:
                    two_4(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
                elif n == 3:
                    two_3(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
                elif n == 2:
                    two_2(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
                else:
                    two_1(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
            elif n == 6:
                one_6(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
            elif n == 5:
                one_5(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
            elif n == 4:
                one_4(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
            elif n == 3:
                one_3(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
            elif n == 2:
                one_2(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
            else:
                one_1(q, q_row, q_channel, width, k, k_channel, k_offset, bias_a, bias_b, mask, scale, out_a, out_b)
            k += n * k_offset
            bias_a += 4 * n
            bias_b += 4 * n
            mask += BYTES * n
            out_a += BYTES * n
            out_b += BYTES * n

    @compiled
    def score_tile(  # type: ignore[no-untyped-def]
        window,
        shift,
        rows,
        q,
        q_row,
        q_channel,
        width,
        k,
        k_row,
        k_channel,
        offset,
        bias,
        bias_row,
        mask,
        scale,
        out,
        size,
        count,
    ):
        """Write scores of the rows of queries of a strip, ``window`` x ``count`` vectors each, ``size`` bytes apart."""
        line = BYTES * count
        between = size - line * shift
        for part in range(3):
            first, lines, n, r = strip_part(part, window, shift, rows)
            for j in range(first, first + lines):
                bias_b, out_b = bias + bias_row * (j - 1), out + line * j + between
                bias_a, out_a = bias + bias_row * (j - r), out + line * j + between * r
                a, b = q + q_row * r, k + k_row * j
                score_row(
                    n,
                    a,
                    q_row,
                    q_channel,
                    width,
                    b,
                    k_channel,
                    offset,
                    bias_a,
                    bias_b,
                    mask,
                    scale,
                    out_a,
                    out_b,
                    count,
                )

    @compiled
    def add_values(  # type: ignore[no-untyped-def]
        rows,
        out,
        out_row,
        out_channel,
        width,
        v,
        v_line,
        v_channel,
        v_offset,
        w_a,
        w_b,
        w_line,
        w_offset,
        lines,
        offsets,
    ):
        """Add the weighted values of ``lines`` rows of keys to one or two rows of outputs, all ``width`` channels."""
        c = 0
        while width - c >= 8:
            a, x = out + out_channel * c, v + v_channel * c
            if rows == 2:
                value_two_8(
                    a, out_row, out_channel, x, v_line, v_channel, v_offset, w_a, w_b, w_line, w_offset, lines, offsets
                )
            else:
                value_one_8(
                    a, out_row, out_channel, x, v_line, v_channel, v_offset, w_a, w_b, w_line, w_offset, lines, offsets
                )
            c += 8
        if c < width:
            a, x = out + out_channel * c, v + v_channel * c
            if rows == 2:
                value_two_4(
                    a, out_row, out_channel, x, v_line, v_channel, v_offset, w_a, w_b, w_line, w_offset, lines, offsets
                )
            else:
                value_one_4(
                    a, out_row, out_channel, x, v_line, v_channel, v_offset, w_a, w_b, w_line, w_offset, lines, offsets
                )

    @compiled
    def value_tile(  # type: ignore[no-untyped-def]
        window, shift, rows, out, width, v, v_row, v_channel, v_offset, weights, size, w_line, w_offset, count
    ):
        """Write, for the rows of queries of a strip, the weighted sums of values as (width, 8)."""
        out_row = BYTES * width
        between = size - w_line * shift
        fill(out, 2 * width)
        for part in range(3):
            first, lines, n, r = strip_part(part, window, shift, rows)
            if lines > 0:
                w_b, v_a = weights + w_line * first + between, v + v_row * first
                w_a, a = weights + w_line * first + between * r, out + out_row * r
                add_values(
                    n,
                    a,
                    out_row,
                    BYTES,
                    width,
                    v_a,
                    v_row,
                    v_channel,
                    v_offset,
                    w_a,
                    w_b,
                    w_line,
                    w_offset,
                    lines,
                    count,
                )

    return score_tile, add_values, value_tile


score_tile, add_values, value_tile = tile_functions(fma)


def _packing(transpose_block: Any, size: int) -> Any:
    """Return a function that packs maps of numbers of so many bytes."""

    @njit(error_model="numpy")
    def pack(source, row_step, column_step, columns, width, target, target_columns, first, last, spare, factor):  # type: ignore[no-untyped-def]
        """Pack rows ``first`` to ``last`` of a map: (H, W, width) of any strides -> (H, width, target_columns)."""
        channel = 4 * target_columns
        for y in range(first, last):
            row = target + y * width * channel
            for x in range(0, columns, LANES):
                count = min(LANES, columns - x)
                for block in range(0, width, LANES):
                    c = min(block, width - LANES)
                    a, to = source + y * row_step + x * column_step + size * c, row + c * channel + 4 * (MARGIN + x)
                    transpose_block(a, column_step, count, to, channel, LANES, spare, factor)
            # Two vectors after the last column, for its tile is full and a margin follows.
            for c in range(width):
                fill(row + c * channel, MARGIN // LANES)
                fill(row + c * channel + 4 * (MARGIN + columns), 1)
                fill(row + (c + 1) * channel - BYTES, 1)

    return pack


pack, pack_half = _packing(transpose, 4), _packing(transpose_from_half, 2)


@njit(error_model="numpy")
def _load_queries(source, column_step, count, width, target, spare, ones):  # type: ignore[no-untyped-def]
    """Write the scaled queries of a tile as (width, 8)."""
    for block in range(0, width, LANES):
        c = min(block, width - LANES)
        transpose(source + 4 * c, column_step, count, target + BYTES * c, BYTES, LANES, spare, ones)


def _storing(transpose_block: Any, size: int) -> Any:
    """Return a function that stores outputs as numbers of so many bytes."""

    @njit(error_model="numpy")
    def store_outputs(source, channel, width, target, column_step, count, spare, factor):  # type: ignore[no-untyped-def]
        """Write eight columns of (width, ...), multiplied by a vector of factors, to the positions of a tile."""
        for block in range(0, width, LANES):
            c = min(block, width - LANES)
            a, to = source + channel * c, target + size * c
            transpose_block(a, channel, LANES, to, column_step, count, spare, factor)

    return store_outputs


store_outputs, store_outputs_as_half = _storing(transpose, 4), _storing(transpose_to_half, 2)


@njit(error_model="numpy")
def read_strip(strip, step_h):  # type: ignore[no-untyped-def]
    """Return its rows, how many there are, ``shift``, the first row of keys and its offset from the first row."""
    y_a, y_b, p_a, start_a, start_b = read(strip), read(strip + 8), read(strip + 16), read(strip + 24), read(strip + 32)
    rows = 2 if y_b >= 0 else 1
    shift = start_b - start_a if rows == 2 else 0
    return y_a, y_b, rows, shift, y_a + (start_a - p_a) * step_h, start_a - p_a


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

    # This thread's own memory: a vector that nobody reads; of two rows one over the sums of weights, the queries, the
    # outputs and the weights.
    mine = scratch + scratch_size * take_number(counters + 8)
    spare = mine
    inverses = spare + BYTES
    queries = inverses + 2 * BYTES
    sums = queries + 2 * BYTES * q_width
    weights = sums + 2 * BYTES * v_width
    ones, scale = factors, factors + BYTES
    # Bytes: between channels of packed rows, between offsets, between the two rows of queries and of outputs.
    channel, offset, q_second, v_second = 4 * packed_columns, 4 * step_w, BYTES * q_width, BYTES * v_width
    k_step, v_step = channel * q_width * step_h, channel * v_width * step_h
    span = 2 * kernel_w - 1
    while True:
        item = take_number(counters)
        if item >= items:
            return
        image, chunk = item // chunks, item % chunks
        batch, head = image // heads, image % heads
        # Whoever works on a whole image packs it into memory of its own; otherwise all images are packed first.
        k_packed = packed + packed_size * (image if phase else (mine - scratch) // scratch_size)
        v_packed = k_packed + channel * height * q_width
        if phase != 2:
            first, last = height * chunk // chunks, height * (chunk + 1) // chunks
            if not known:
                a = k + batch * k_batch + head * k_head
                pack(a, k_row, k_column, columns, q_width, k_packed, packed_columns, first, last, spare, ones)
            a = v + batch * v_batch + head * v_head
            pack(a, v_row, v_column, columns, v_width, v_packed, packed_columns, first, last, spare, ones)
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
                valid = min(LANES, columns - x)
                at = 4 * (MARGIN + x + dx * step_w)
                if stored:
                    weights = stored + stored_size * image + 2 * (weights_size + BYTES) * (tile_count * s + t)
                    inverses = weights + 2 * weights_size
                if not known:
                    for r in range(rows):
                        a = q_image + (y_b if r else y_a) * q_row + x * q_column
                        _load_queries(a, q_column, valid, q_width, queries + r * q_second, spare, ones)
                    a = k_packed + channel * q_width * first_key + at
                    mask = masks + BYTES * mask_offsets * t
                    first_bias = bias_head + 4 * ((dy + kernel_h - 1) * span + dx + kernel_w - 1)
                    score_tile(
                        window_h, shift, rows, queries, q_second, BYTES, q_width, a, k_step, channel, offset,
                        first_bias, 4 * span, mask, scale, weights, weights_size, count
                    )  # fmt: skip
                    for r in range(rows):
                        softmax_tile(False, weights + r * weights_size, window_h, count, inverses + r * BYTES)
                a, line = v_packed + channel * v_width * first_key + at, BYTES * count
                value_tile(
                    window_h, shift, rows, sums, v_width, a, v_step, channel, offset,
                    weights, weights_size, line, BYTES, count
                )  # fmt: skip
                for r in range(rows):
                    a = out_image + (y_b if r else y_a) * out_row + x * out_column
                    inverse = inverses + r * BYTES
                    store_outputs(sums + r * v_second, BYTES, v_width, a, out_column, valid, spare, inverse)


def _compile(version: int) -> Any:
    @kernel
    def work(p):  # type: ignore[no-untyped-def]
        if version:  # always; see ``fingerprint``
            _work(p)

    return work


_COMPILED = _compile(fingerprint())
KERNEL: int = _COMPILED.address
