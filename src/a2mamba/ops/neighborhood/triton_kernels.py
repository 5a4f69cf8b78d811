"""Triton kernels of neighborhood attention; ``triton_impl.py`` launches them and says why their tiles are as they are.

Words, shared by all kernels (the rule itself is in ``reference.py``):

- A *class* is one pair of residues (row, column) modulo the dilation; its positions form an undilated map of their
  own. ``step`` is the dilation, ``window`` the window, both already cut to what the map holds.
- A *tile* is T_H x T_W queries (or keys, where gradients of keys are computed) of one class: the rows of the score
  matrices.
- Its *region* is a rectangle that holds all neighbors of a tile, of the same size for all. Its positions, numbered row
  by row, are taken BLOCK at a time: the columns of the score matrices.
- Tiles that lie to the borders alike are of one *kind*, and share a *matrix*: the bias of every pair of row and column
  in units of log 2, and minus infinity where they are no neighbors (``tiles.py``). ``attention_matrix_kernel`` computes
  those of all kinds before an attention; the others read them, with a tenth of the instructions.

Scores are kept in units of log 2, so that a weight is one exp2. Sums are float32. Offsets inside an image are int32
(``why_not`` refuses larger ones), those of images and heads int64.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from a2mamba.ops.neighborhood.tiles import FIELDS

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1.0e30)  # below every score, and finite: differences of two such numbers are not NaN
MOST = tl.constexpr(6.0e4)  # what a bias is cut to: float16 ends at 65,504
ROW = tl.constexpr(FIELDS)


@triton.jit
def _locate(pid, heads, tiles_y, tiles_x):
    """Decode a program id into (image, head, tile row, tile column).

    Heads change fastest: in channels-last memory the heads of one position share cache lines.
    """
    rest = pid // heads
    return rest // (tiles_y * tiles_x), pid % heads, (rest // tiles_x) % tiles_y, rest % tiles_x


@triton.jit
def _row(table, number):
    """Return the first three numbers of a row of one axis, of its tiles or of its kinds."""
    row = table + number * ROW
    return tl.load(row), tl.load(row + 1), tl.load(row + 2)


@triton.jit
def _divide(n, width):
    """Return (n // width, n % width) for small non-negative n: one multiplication instead of an integer division."""
    # The quotient is at least half a unit / width away from an integer, far more than the rounding of float32.
    quotient = ((n.to(tl.float32) + 0.5) * (1.0 / width.to(tl.float32))).to(tl.int32)
    return quotient, n - quotient * width


@triton.jit
def _rows(pointer, offsets, exists, stride, WIDTH: tl.constexpr, PADDED: tl.constexpr, ALIGN: tl.constexpr):
    """Load (rows, PADDED): the heads that start at ``offsets``, zero where there is none and in the padding."""
    channel = tl.arange(0, PADDED)
    # The hint lets a row be read in vectors: the compiler cannot see that sums of strides stay aligned. It holds for
    # results of operations, not for arguments, hence the added axis first.
    start = tl.multiple_of(offsets[:, None], (ALIGN, ALIGN))
    mask = exists[:, None] & (channel < WIDTH)[None, :]
    return tl.load(pointer + start + channel[None, :] * stride, mask=mask, other=0.0)


@triton.jit
def _store(pointer, value, position, exists, heads, WIDTH: tl.constexpr, PADDED: tl.constexpr):
    """Store (rows, PADDED) to an image of (H, W, heads, WIDTH) memory; ``pointer`` stands at its head."""
    channel = tl.arange(0, PADDED)
    offsets = (position * heads)[:, None] * WIDTH + channel[None, :]
    tl.store(pointer + offsets, value.to(pointer.dtype.element_ty), mask=exists[:, None] & (channel < WIDTH)[None, :])


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    """Return the float32 matrix product. "interpreter" widens first: Triton's interpreter cannot multiply bfloat16."""
    if PRECISION == "interpreter":
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:  # noqa: RET505 - both branches must be closed for the compiler
        return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _dot_add(a, b, total, PRECISION: tl.constexpr):
    """Return total + the matrix product."""
    if PRECISION == "interpreter":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc=total)
    else:  # noqa: RET505 - as above
        return tl.dot(a, b, acc=total, input_precision=PRECISION)


@triton.jit
def _window_start(p, length, window, K: tl.constexpr):
    """Return the first key of query p in a sequence of ``length``: the window shifts at a border."""
    return tl.minimum(tl.maximum(p - (K - 1) // 2, 0), length - window)


@triton.jit
def _neighbors(
    query_y, query_x, key_y, key_x, length_h, length_w, window_h, window_w, K_H: tl.constexpr, K_W: tl.constexpr
):
    """Return whether keys lie in the windows of queries, which are in the class; arguments broadcast."""
    offset_y = key_y - _window_start(query_y, length_h, window_h, K_H)
    offset_x = key_x - _window_start(query_x, length_w, window_w, K_W)
    inside = (offset_y >= 0) & (offset_y < window_h) & (offset_x >= 0) & (offset_x < window_w)
    return inside & (query_y < length_h) & (query_x < length_w)


@triton.jit
def _positions(first_y, first_x, step_h, step_w, height, width, T_H: tl.constexpr, T_W: tl.constexpr):
    """Return (row, column, whether it exists) in the map of the positions of a tile."""
    row = tl.arange(0, T_H * T_W)
    y, x = first_y + step_h * (row // T_W), first_x + step_w * (row % T_W)
    return y, x, (y < height) & (x < width)


@triton.jit
def _region(begin, origin_y, origin_x, step_h, step_w, extent_w, height, width, BLOCK: tl.constexpr):
    """Return (row, column, whether it exists) in the map of a block of positions of a region."""
    y, x = _divide(begin + tl.arange(0, BLOCK), extent_w)
    y, x = origin_y + step_h * y, origin_x + step_w * x
    return y, x, (y < height) & (x < width)


@triton.jit
def _matrix_rows(matrix, kind, head, kinds, columns, T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr):
    """Return the addresses (T_H * T_W, BLOCK) of the first block of a kind's matrix."""
    matrix += (head * kinds + kind) * (T_H * T_W) * columns
    row = tl.multiple_of(tl.arange(0, T_H * T_W) * columns, 16)
    return matrix + row[:, None] + tl.arange(0, BLOCK)[None, :]


@triton.jit(
    do_not_specialize=["kinds_x", "extent_h", "extent_w", "columns", "window_h", "window_w"],
)
def attention_matrix_kernel(
    bias, kinds_vertical, kinds_horizontal, matrix,
    kinds_x, extent_h, extent_w, columns, window_h, window_w,
    K_H: tl.constexpr, K_W: tl.constexpr, T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr,
    HAS_BIAS: tl.constexpr, OF_KEYS: tl.constexpr,
):  # fmt: skip
    """BLOCK entries of the matrix of one (kind, head)."""
    kind, head = tl.program_id(1), tl.program_id(2).to(tl.int64)
    first_y, origin_y, length_h = _row(kinds_vertical, kind // kinds_x)
    first_x, origin_x, length_w = _row(kinds_horizontal, kind % kinds_x)
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = _divide(entry, columns)
    column_y, column_x = _divide(column, extent_w)
    row_y, row_x = first_y + row // T_W, first_x + row % T_W
    column_y, column_x = origin_y + column_y, origin_x + column_x
    if OF_KEYS:
        key_y, key_x, query_y, query_x = row_y, row_x, column_y, column_x
    else:
        # Rows past the end of the class stand in for its last query: finite scores, that are never stored.
        key_y, key_x = column_y, column_x
        query_y, query_x = tl.minimum(row_y, length_h - 1), tl.minimum(row_x, length_w - 1)
    inside = _neighbors(query_y, query_x, key_y, key_x, length_h, length_w, window_h, window_w, K_H, K_W)
    inside &= (key_y < length_h) & (key_x < length_w) & (column < extent_h * extent_w)
    value = tl.zeros([BLOCK], tl.float32)
    if HAS_BIAS:
        index = (key_y - query_y + K_H - 1) * (2 * K_W - 1) + key_x - query_x + K_W - 1
        value = tl.load(bias + head * (2 * K_H - 1) * (2 * K_W - 1) + index, mask=inside, other=0.0) * LOG2E
        value = tl.minimum(tl.maximum(value, -MOST), MOST)
    value = tl.where(inside, value, float("-inf"))
    matrix += (head * tl.num_programs(1) + kind) * (T_H * T_W) * columns
    tl.store(matrix + entry, value.to(matrix.dtype.element_ty), mask=entry < T_H * T_W * columns)


@triton.jit(
    do_not_specialize=[
        "heads",
        "height",
        "width",
        "step_h",
        "step_w",
        "tiles_y",
        "tiles_x",
        "kinds",
        "kinds_x",
        "extent_w",
        "columns",
    ]
)
def attention_kernel(
    q, k, v, matrix, vertical, horizontal, out, lse,
    heads, height, width, step_h, step_w, tiles_y, tiles_x, kinds, kinds_x, extent_w, columns, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d,
    D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr, AGAIN: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries: out, and lse unless AGAIN, which reads it and so needs neither maximum nor sum."""
    image, head, tile_y, tile_x = _locate(tl.program_id(0), heads, tiles_y, tiles_x)
    kind_y, first_y, origin_y = _row(vertical, tile_y)
    kind_x, first_x, origin_x = _row(horizontal, tile_x)
    batch, head = image.to(tl.int64), head.to(tl.int64)
    q += tl.multiple_of(batch * q_b + head * q_g, Q_ALIGN)
    k += tl.multiple_of(batch * k_b + head * k_g, K_ALIGN)
    v += tl.multiple_of(batch * v_b + head * v_g, V_ALIGN)
    out += (batch * height * width * heads + head) * E
    lse += (batch * heads + head) * height * width

    y, x, exists = _positions(first_y, first_x, step_h, step_w, height, width, T_H, T_W)
    position = y * width + x
    tile_q = _rows(q, y * q_h + x * q_w, exists, q_d, D, D_PAD, Q_ALIGN)
    result = tl.zeros([T_H * T_W, E_PAD], tl.float32)
    if AGAIN:
        known = tl.load(lse + position, mask=exists, other=0.0)[:, None] * LOG2E
    else:
        maximum = tl.full([T_H * T_W], LOWEST, tl.float32)
        total = tl.zeros([T_H * T_W], tl.float32)

    at = _matrix_rows(matrix, kind_y * kinds_x + kind_x, head, kinds, columns, T_H, T_W, BLOCK)
    for begin in range(0, columns, BLOCK):
        key_y, key_x, real = _region(begin, origin_y, origin_x, step_h, step_w, extent_w, height, width, BLOCK)
        keys = _rows(k, key_y * k_h + key_x * k_w, real, k_d, D, D_PAD, K_ALIGN)
        values = _rows(v, key_y * v_h + key_x * v_w, real, v_d, E, E_PAD, V_ALIGN)
        scores = _dot(tile_q, tl.trans(keys), PRECISION) * (scale * LOG2E) + tl.load(at + begin).to(tl.float32)
        if AGAIN:
            weights = tl.exp2(scores - known)
        else:
            higher = tl.maximum(maximum, tl.max(scores, 1))
            weights = tl.exp2(scores - higher[:, None])
            shrink = tl.exp2(maximum - higher)
            total = total * shrink + tl.sum(weights, 1)
            result = result * shrink[:, None]
            maximum = higher
        result = _dot_add(weights.to(values.dtype), values, result, PRECISION)
    if not AGAIN:
        result = result / total[:, None]
        tl.store(lse + position, (maximum + tl.log2(total)) * LN2, mask=exists)
    _store(out, result, position, exists, heads, E, E_PAD)


@triton.jit(
    do_not_specialize=[
        "heads",
        "height",
        "width",
        "step_h",
        "step_w",
        "tiles_y",
        "tiles_x",
        "kinds",
        "kinds_x",
        "extent_w",
        "columns",
    ]
)
def attention_backward_q_kernel(
    q, k, v, matrix, vertical, horizontal, out, lse, grad, delta, grad_q,
    heads, height, width, step_h, step_w, tiles_y, tiles_x, kinds, kinds_x, extent_w, columns, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d, g_b, g_g, g_h, g_w, g_d,
    D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, G_ALIGN: tl.constexpr,
    O_ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries: grad_q, and delta = sum of grad * out over a head, which the other two kernels read."""
    image, head, tile_y, tile_x = _locate(tl.program_id(0), heads, tiles_y, tiles_x)
    kind_y, first_y, origin_y = _row(vertical, tile_y)
    kind_x, first_x, origin_x = _row(horizontal, tile_x)
    batch, head = image.to(tl.int64), head.to(tl.int64)
    q += tl.multiple_of(batch * q_b + head * q_g, Q_ALIGN)
    k += tl.multiple_of(batch * k_b + head * k_g, K_ALIGN)
    v += tl.multiple_of(batch * v_b + head * v_g, V_ALIGN)
    grad += tl.multiple_of(batch * g_b + head * g_g, G_ALIGN)
    out += (batch * height * width * heads + head) * E
    grad_q += (batch * height * width * heads + head) * D
    lse += (batch * heads + head) * height * width
    delta += (batch * heads + head) * height * width

    y, x, exists = _positions(first_y, first_x, step_h, step_w, height, width, T_H, T_W)
    position = y * width + x
    tile_q = _rows(q, y * q_h + x * q_w, exists, q_d, D, D_PAD, Q_ALIGN)
    tile_g = _rows(grad, y * g_h + x * g_w, exists, g_d, E, E_PAD, G_ALIGN).to(v.dtype.element_ty)
    tile_o = _rows(out, position * heads * E, exists, 1, E, E_PAD, O_ALIGN)
    tile_delta = tl.sum(tile_g.to(tl.float32) * tile_o.to(tl.float32), 1)
    tl.store(delta + position, tile_delta, mask=exists)
    known = tl.load(lse + position, mask=exists, other=0.0)[:, None] * LOG2E

    result = tl.zeros([T_H * T_W, D_PAD], tl.float32)
    at = _matrix_rows(matrix, kind_y * kinds_x + kind_x, head, kinds, columns, T_H, T_W, BLOCK)
    for begin in range(0, columns, BLOCK):
        key_y, key_x, real = _region(begin, origin_y, origin_x, step_h, step_w, extent_w, height, width, BLOCK)
        keys = _rows(k, key_y * k_h + key_x * k_w, real, k_d, D, D_PAD, K_ALIGN)
        values = _rows(v, key_y * v_h + key_x * v_w, real, v_d, E, E_PAD, V_ALIGN)
        scores = _dot(tile_q, tl.trans(keys), PRECISION) * (scale * LOG2E) + tl.load(at + begin).to(tl.float32)
        weights = tl.exp2(scores - known)
        grad_weights = _dot(tile_g, tl.trans(values), PRECISION)
        grad_scores = weights * (grad_weights - tile_delta[:, None])
        result = _dot_add(grad_scores.to(keys.dtype), keys, result, PRECISION)
    _store(grad_q, result * scale, position, exists, heads, D, D_PAD)


@triton.jit(
    do_not_specialize=[
        "heads",
        "height",
        "width",
        "step_h",
        "step_w",
        "tiles_y",
        "tiles_x",
        "kinds",
        "kinds_x",
        "extent_w",
        "columns",
    ]
)
def attention_backward_kv_kernel(
    q, k, v, matrix, vertical, horizontal, lse, delta, grad, grad_k, grad_v,
    heads, height, width, step_h, step_w, tiles_y, tiles_x, kinds, kinds_x, extent_w, columns, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d, g_b, g_g, g_h, g_w, g_d,
    D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, G_ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys: grad_k and grad_v, from all queries that see any of them; rows are keys, columns queries."""
    image, head, tile_y, tile_x = _locate(tl.program_id(0), heads, tiles_y, tiles_x)
    kind_y, first_y, origin_y = _row(vertical, tile_y)
    kind_x, first_x, origin_x = _row(horizontal, tile_x)
    batch, head = image.to(tl.int64), head.to(tl.int64)
    q += tl.multiple_of(batch * q_b + head * q_g, Q_ALIGN)
    k += tl.multiple_of(batch * k_b + head * k_g, K_ALIGN)
    v += tl.multiple_of(batch * v_b + head * v_g, V_ALIGN)
    grad += tl.multiple_of(batch * g_b + head * g_g, G_ALIGN)
    grad_k += (batch * height * width * heads + head) * D
    grad_v += (batch * height * width * heads + head) * E
    lse += (batch * heads + head) * height * width
    delta += (batch * heads + head) * height * width

    y, x, exists = _positions(first_y, first_x, step_h, step_w, height, width, T_H, T_W)
    tile_k = _rows(k, y * k_h + x * k_w, exists, k_d, D, D_PAD, K_ALIGN)
    tile_v = _rows(v, y * v_h + x * v_w, exists, v_d, E, E_PAD, V_ALIGN)

    result_k = tl.zeros([T_H * T_W, D_PAD], tl.float32)
    result_v = tl.zeros([T_H * T_W, E_PAD], tl.float32)
    at = _matrix_rows(matrix, kind_y * kinds_x + kind_x, head, kinds, columns, T_H, T_W, BLOCK)
    for begin in range(0, columns, BLOCK):
        query_y, query_x, real = _region(begin, origin_y, origin_x, step_h, step_w, extent_w, height, width, BLOCK)
        queries = _rows(q, query_y * q_h + query_x * q_w, real, q_d, D, D_PAD, Q_ALIGN)
        grads = _rows(grad, query_y * g_h + query_x * g_w, real, g_d, E, E_PAD, G_ALIGN).to(tile_v.dtype)
        position = query_y * width + query_x
        known = tl.load(lse + position, mask=real, other=0.0)[None, :] * LOG2E
        block_delta = tl.load(delta + position, mask=real, other=0.0)[None, :]
        scores = _dot(tile_k, tl.trans(queries), PRECISION) * (scale * LOG2E) + tl.load(at + begin).to(tl.float32)
        weights = tl.exp2(scores - known)
        result_v = _dot_add(weights.to(grads.dtype), grads, result_v, PRECISION)
        grad_weights = _dot(tile_v, tl.trans(grads), PRECISION)
        grad_scores = weights * (grad_weights - block_delta)
        result_k = _dot_add(grad_scores.to(queries.dtype), queries, result_k, PRECISION)
    position = y * width + x
    _store(grad_k, result_k * scale, position, exists, heads, D, D_PAD)
    _store(grad_v, result_v, position, exists, heads, E, E_PAD)


@triton.jit(
    do_not_specialize=[
        "batch",
        "heads",
        "height",
        "width",
        "step_h",
        "step_w",
        "kinds",
        "kinds_x",
        "extent_w",
        "columns",
    ]
)
def attention_backward_matrix_kernel(
    q, k, v, matrix, vertical, horizontal, kinds_vertical, kinds_horizontal, runs, lse, delta, grad, partial,
    batch, heads, height, width, step_h, step_w, kinds, kinds_x, extent_w, columns, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d, g_b, g_g, g_h, g_w, g_d,
    D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, G_ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One (head, block of columns) over a run of tiles of one kind: its share of the matrix's gradient.

    An entry of the bias table collects millions of scores. But tiles of a kind share their matrix, in every image: so
    gradients of scores are summed as matrices, and only the sums are spread over the table, by the next kernel.
    """
    blocks = columns // BLOCK
    run = tl.program_id(0) // blocks
    begin = (tl.program_id(0) % blocks) * BLOCK
    head = tl.program_id(1).to(tl.int64)
    kind, first_item, last_item = tl.load(runs + 4 * run), tl.load(runs + 4 * run + 1), tl.load(runs + 4 * run + 2)
    row_y, row_x = kinds_vertical + (kind // kinds_x) * ROW, kinds_horizontal + (kind % kinds_x) * ROW
    tiles_first_y, tiles_first_x, tiles_x = tl.load(row_y + 3), tl.load(row_x + 3), tl.load(row_x + 4)

    column_y, column_x = _divide(begin + tl.arange(0, BLOCK), extent_w)
    at = _matrix_rows(matrix, kind, head, kinds, columns, T_H, T_W, BLOCK)
    known_scores = tl.load(at + begin).to(tl.float32)
    collected = tl.zeros([T_H * T_W, BLOCK], tl.float32)
    for item in range(first_item, last_item):
        image, tile = item % batch, item // batch
        _, first_y, origin_y = _row(vertical, tiles_first_y + tile // tiles_x)
        _, first_x, origin_x = _row(horizontal, tiles_first_x + tile % tiles_x)
        wide = image.to(tl.int64)
        base_q = q + tl.multiple_of(wide * q_b + head * q_g, Q_ALIGN)
        base_k = k + tl.multiple_of(wide * k_b + head * k_g, K_ALIGN)
        base_v = v + tl.multiple_of(wide * v_b + head * v_g, V_ALIGN)
        base_g = grad + tl.multiple_of(wide * g_b + head * g_g, G_ALIGN)
        base_row = (wide * heads + head) * height * width
        y, x, exists = _positions(first_y, first_x, step_h, step_w, height, width, T_H, T_W)
        position = y * width + x
        tile_q = _rows(base_q, y * q_h + x * q_w, exists, q_d, D, D_PAD, Q_ALIGN)
        tile_g = _rows(base_g, y * g_h + x * g_w, exists, g_d, E, E_PAD, G_ALIGN).to(v.dtype.element_ty)
        known = tl.load(lse + base_row + position, mask=exists, other=0.0)[:, None] * LOG2E
        tile_delta = tl.load(delta + base_row + position, mask=exists, other=0.0)[:, None]
        key_y, key_x = origin_y + step_h * column_y, origin_x + step_w * column_x
        real = (key_y < height) & (key_x < width)
        keys = _rows(base_k, key_y * k_h + key_x * k_w, real, k_d, D, D_PAD, K_ALIGN)
        values = _rows(base_v, key_y * v_h + key_x * v_w, real, v_d, E, E_PAD, V_ALIGN)
        scores = _dot(tile_q, tl.trans(keys), PRECISION) * (scale * LOG2E) + known_scores
        grad_weights = _dot(tile_g, tl.trans(values), PRECISION)
        collected += tl.exp2(scores - known) * (grad_weights - tile_delta)
    partial += (run.to(tl.int64) * heads + head) * (T_H * T_W) * columns + begin
    row = tl.arange(0, T_H * T_W)
    tl.store(partial + (row * columns)[:, None] + tl.arange(0, BLOCK)[None, :], collected)


@triton.jit(do_not_specialize=["heads", "kinds", "kinds_x", "extent_h", "extent_w", "columns", "window_h", "window_w"])
def attention_backward_bias_kernel(
    partial, kinds_vertical, kinds_horizontal, first_runs, grad_bias,
    heads, kinds, kinds_x, extent_h, extent_w, columns, window_h, window_w,
    K_H: tl.constexpr, K_W: tl.constexpr, T_H: tl.constexpr, T_W: tl.constexpr, RUNS: tl.constexpr,
):  # fmt: skip
    """One entry of the bias table: the sum of what all runs collected where it was read, in a fixed order."""
    entry, head = tl.program_id(0), tl.program_id(1)
    dy, dx = entry // (2 * K_W - 1) - (K_H - 1), entry % (2 * K_W - 1) - (K_W - 1)
    row = tl.arange(0, T_H * T_W)
    total = tl.zeros([T_H * T_W], tl.float32)
    for kind in range(kinds):
        first_y, origin_y, length_h = _row(kinds_vertical, kind // kinds_x)
        first_x, origin_x, length_w = _row(kinds_horizontal, kind % kinds_x)
        query_y, query_x = first_y + row // T_W, first_x + row % T_W
        key_y, key_x = query_y + dy, query_x + dx
        inside = _neighbors(query_y, query_x, key_y, key_x, length_h, length_w, window_h, window_w, K_H, K_W)
        read = row * columns + (key_y - origin_y) * extent_w + key_x - origin_x
        end = tl.load(first_runs + kind + 1)
        for begin in range(tl.load(first_runs + kind), end, RUNS):
            run = begin + tl.arange(0, RUNS)
            base = (run.to(tl.int64) * heads + head) * (T_H * T_W) * columns
            mask = (run < end)[:, None] & inside[None, :]
            total += tl.sum(tl.load(partial + base[:, None] + read[None, :], mask=mask, other=0.0), 0)
    tl.store(grad_bias + head * (2 * K_H - 1) * (2 * K_W - 1) + entry, tl.sum(total, 0))
