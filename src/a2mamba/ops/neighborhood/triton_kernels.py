"""Triton kernels of neighborhood attention; ``triton_impl.py`` launches them and says why their tiles are as they are.

Words, shared by all kernels (the rule itself is in ``reference.py``):

- A *class* is one pair of residues (row, column) modulo the dilation; its positions form an undilated map of their
  own, and every coordinate below is a coordinate in that map. ``step`` is the dilation, ``window`` the window, both
  already cut to what the map holds.
- A *tile* is T_H x T_W queries (or keys, in ``backward_kv_kernel``) of one class: the rows of the score matrices.
- Its *region* is the smallest rectangle that holds all neighbors of a tile. Its positions, numbered row by row, are
  taken BLOCK at a time: the columns of the score matrices. Which pairs are neighbors is index arithmetic on them.

Scores are kept in units of log 2, so that a weight is one exp2. Sums are float32. Offsets inside an image are int32
(``why_not`` refuses larger ones), those of images and heads int64.
"""

# Kernels are compiled, not called: their parameters have no Python types, and mypy cannot follow what is done to them.
# mypy: disallow-untyped-defs=False, check-untyped-defs=False

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1.0e30)  # below every score, and finite: differences of two such numbers are not NaN


@triton.jit
def _locate(pid, heads, step_h, step_w, tiles_h, tiles_w):
    """Decode a program id into (image, head, row residue, column residue, tile row, tile column).

    Heads change fastest: in channels-last memory the heads of one position share cache lines.
    """
    head = pid % heads
    rest = pid // heads
    tile_x = rest % tiles_w
    rest = rest // tiles_w
    tile_y = rest % tiles_h
    rest = rest // tiles_h
    residue_x = rest % step_w
    rest = rest // step_w
    return rest // step_h, head, rest % step_h, residue_x, tile_y, tile_x


@triton.jit
def _divide(n, width):
    """Return (n // width, n % width) for small non-negative n: one multiplication instead of an integer division."""
    # The quotient is at least half a unit / width away from an integer, far more than the rounding of float32.
    quotient = ((n.to(tl.float32) + 0.5) * (1.0 / width.to(tl.float32))).to(tl.int32)
    return quotient, n - quotient * width


@triton.jit
def _window_start(p, length, window, K: tl.constexpr):
    """Return the first key of query p in a sequence of ``length``: the window shifts at a border."""
    return tl.minimum(tl.maximum(p - (K - 1) // 2, 0), length - window)


@triton.jit
def _region_start(first, length, extent, K: tl.constexpr):
    """Return the first key position of the region of a query tile that starts at ``first``."""
    return tl.minimum(tl.maximum(first - (K - 1) // 2, 0), tl.maximum(length - extent, 0))


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
    else:  # noqa: RET505
        return tl.dot(a, b, acc=total, input_precision=PRECISION)


@triton.jit
def _neighbors(key_y, key_x, start_y, start_x, window_h, window_w):
    """Return whether keys lie in the windows that start at (start_y, start_x), for arguments that broadcast."""
    # One unsigned comparison an axis: a key before the window becomes a huge number.
    in_y = (key_y - start_y).to(tl.uint32, bitcast=True) < window_h.to(tl.uint32, bitcast=True)
    in_x = (key_x - start_x).to(tl.uint32, bitcast=True) < window_w.to(tl.uint32, bitcast=True)
    return in_y & in_x


@triton.jit
def _code(y, x, K_W: tl.constexpr):
    """Number a position so that (code of key) - (code of query) + ``_center`` is an index into the bias table."""
    return y * (2 * K_W - 1) + x


@triton.jit
def _scores(dot, scale, bias, index, inside, HAS_BIAS: tl.constexpr):
    """Return scale * dot + bias in units of log 2, -inf outside the windows."""
    scores = dot * (scale * LOG2E)
    if HAS_BIAS:
        scores += tl.load(bias + index, mask=inside, other=0.0) * LOG2E
    return tl.where(inside, scores, float("-inf"))


@triton.jit(
    do_not_specialize=[
        "heads",
        "height",
        "width",
        "step_h",
        "step_w",
        "window_h",
        "window_w",
        "extent_h",
        "extent_w",
        "tiles_h",
        "tiles_w",
    ]
)
def forward_kernel(
    q, k, v, bias, out, lse,
    heads, height, width, step_h, step_w, window_h, window_w, extent_h, extent_w, tiles_h, tiles_w, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d,
    K_H: tl.constexpr, K_W: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr, AGAIN: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries: out, and lse unless AGAIN, which reads it and so needs neither maximum nor sum."""
    image, head, residue_y, residue_x, tile_y, tile_x = _locate(
        tl.program_id(0), heads, step_h, step_w, tiles_h, tiles_w
    )
    length_h = (height - residue_y + step_h - 1) // step_h
    length_w = (width - residue_x + step_w - 1) // step_w
    first_y, first_x = tile_y * T_H, tile_x * T_W
    if (first_y >= length_h) | (first_x >= length_w):
        return
    batch, head = image.to(tl.int64), head.to(tl.int64)
    q += tl.multiple_of(batch * q_b + head * q_g, Q_ALIGN)
    k += tl.multiple_of(batch * k_b + head * k_g, K_ALIGN)
    v += tl.multiple_of(batch * v_b + head * v_g, V_ALIGN)
    out += (batch * height * width * heads + head) * E
    lse += (batch * heads + head) * height * width
    bias += head * (2 * K_H - 1) * (2 * K_W - 1)

    row = tl.arange(0, T_H * T_W)
    y, x = first_y + row // T_W, first_x + row % T_W
    exists = (y < length_h) & (x < length_w)
    # Queries past the end stand in for the last one, so that they read inside the bias table; they are never stored.
    y, x = tl.minimum(y, length_h - 1), tl.minimum(x, length_w - 1)
    start_y = _window_start(y, length_h, window_h, K_H)[:, None]
    start_x = _window_start(x, length_w, window_w, K_W)[:, None]
    code = _code(y - (K_H - 1), x - (K_W - 1), K_W)[:, None]
    image_y, image_x = residue_y + step_h * y, residue_x + step_w * x
    position = image_y * width + image_x
    tile_q = _rows(q, image_y * q_h + image_x * q_w, exists, q_d, D, D_PAD, Q_ALIGN)

    origin_y = _region_start(first_y, length_h, extent_h, K_H)
    origin_x = _region_start(first_x, length_w, extent_w, K_W)
    result = tl.zeros([T_H * T_W, E_PAD], tl.float32)
    if AGAIN:
        known = tl.load(lse + position, mask=exists, other=0.0)[:, None] * LOG2E
    else:
        maximum = tl.full([T_H * T_W], LOWEST, tl.float32)
        total = tl.zeros([T_H * T_W], tl.float32)
    for begin in range(0, extent_h * extent_w, BLOCK):
        key_y, key_x = _divide(begin + tl.arange(0, BLOCK), extent_w)
        key_y, key_x = origin_y + key_y, origin_x + key_x
        real = (key_y < length_h) & (key_x < length_w)
        at_y, at_x = residue_y + step_h * key_y, residue_x + step_w * key_x
        keys = _rows(k, at_y * k_h + at_x * k_w, real, k_d, D, D_PAD, K_ALIGN)
        values = _rows(v, at_y * v_h + at_x * v_w, real, v_d, E, E_PAD, V_ALIGN)
        inside = _neighbors(key_y[None, :], key_x[None, :], start_y, start_x, window_h, window_w)
        index = _code(key_y, key_x, K_W)[None, :] - code
        dot = _dot(tile_q, tl.trans(keys), PRECISION)
        scores = _scores(dot, scale, bias, index, inside, HAS_BIAS)
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
        "window_h",
        "window_w",
        "extent_h",
        "extent_w",
        "tiles_h",
        "tiles_w",
    ]
)
def backward_q_kernel(
    q, k, v, bias, out, lse, grad, delta, grad_q,
    heads, height, width, step_h, step_w, window_h, window_w, extent_h, extent_w, tiles_h, tiles_w, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d, g_b, g_g, g_h, g_w, g_d,
    K_H: tl.constexpr, K_W: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, G_ALIGN: tl.constexpr,
    O_ALIGN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries: grad_q, and delta = sum of grad * out over a head, which the other two kernels read."""
    image, head, residue_y, residue_x, tile_y, tile_x = _locate(
        tl.program_id(0), heads, step_h, step_w, tiles_h, tiles_w
    )
    length_h = (height - residue_y + step_h - 1) // step_h
    length_w = (width - residue_x + step_w - 1) // step_w
    first_y, first_x = tile_y * T_H, tile_x * T_W
    if (first_y >= length_h) | (first_x >= length_w):
        return
    batch, head = image.to(tl.int64), head.to(tl.int64)
    q += tl.multiple_of(batch * q_b + head * q_g, Q_ALIGN)
    k += tl.multiple_of(batch * k_b + head * k_g, K_ALIGN)
    v += tl.multiple_of(batch * v_b + head * v_g, V_ALIGN)
    grad += tl.multiple_of(batch * g_b + head * g_g, G_ALIGN)
    out += (batch * height * width * heads + head) * E
    grad_q += (batch * height * width * heads + head) * D
    lse += (batch * heads + head) * height * width
    delta += (batch * heads + head) * height * width
    bias += head * (2 * K_H - 1) * (2 * K_W - 1)

    row = tl.arange(0, T_H * T_W)
    y, x = first_y + row // T_W, first_x + row % T_W
    exists = (y < length_h) & (x < length_w)
    y, x = tl.minimum(y, length_h - 1), tl.minimum(x, length_w - 1)
    start_y = _window_start(y, length_h, window_h, K_H)[:, None]
    start_x = _window_start(x, length_w, window_w, K_W)[:, None]
    code = _code(y - (K_H - 1), x - (K_W - 1), K_W)[:, None]
    image_y, image_x = residue_y + step_h * y, residue_x + step_w * x
    position = image_y * width + image_x
    tile_q = _rows(q, image_y * q_h + image_x * q_w, exists, q_d, D, D_PAD, Q_ALIGN)
    tile_g = _rows(grad, image_y * g_h + image_x * g_w, exists, g_d, E, E_PAD, G_ALIGN).to(v.dtype.element_ty)
    tile_o = _rows(out, position * heads * E, exists, 1, E, E_PAD, O_ALIGN)
    tile_delta = tl.sum(tile_g.to(tl.float32) * tile_o.to(tl.float32), 1)
    tl.store(delta + position, tile_delta, mask=exists)
    known = tl.load(lse + position, mask=exists, other=0.0)[:, None] * LOG2E

    origin_y = _region_start(first_y, length_h, extent_h, K_H)
    origin_x = _region_start(first_x, length_w, extent_w, K_W)
    result = tl.zeros([T_H * T_W, D_PAD], tl.float32)
    for begin in range(0, extent_h * extent_w, BLOCK):
        key_y, key_x = _divide(begin + tl.arange(0, BLOCK), extent_w)
        key_y, key_x = origin_y + key_y, origin_x + key_x
        real = (key_y < length_h) & (key_x < length_w)
        at_y, at_x = residue_y + step_h * key_y, residue_x + step_w * key_x
        keys = _rows(k, at_y * k_h + at_x * k_w, real, k_d, D, D_PAD, K_ALIGN)
        values = _rows(v, at_y * v_h + at_x * v_w, real, v_d, E, E_PAD, V_ALIGN)
        inside = _neighbors(key_y[None, :], key_x[None, :], start_y, start_x, window_h, window_w)
        index = _code(key_y, key_x, K_W)[None, :] - code
        dot = _dot(tile_q, tl.trans(keys), PRECISION)
        weights = tl.exp2(_scores(dot, scale, bias, index, inside, HAS_BIAS) - known)
        grad_weights = _dot(tile_g, tl.trans(values), PRECISION)
        grad_scores = weights * (grad_weights - tile_delta[:, None])
        result = _dot_add(grad_scores.to(keys.dtype), keys, result, PRECISION)
    _store(grad_q, result * scale, position, exists, heads, D, D_PAD)


@triton.jit(
    do_not_specialize=["heads", "height", "width", "step_h", "step_w", "window_h", "window_w", "tiles_h", "tiles_w"]
)
def backward_kv_kernel(
    q, k, v, bias, lse, delta, grad, grad_k, grad_v,
    heads, height, width, step_h, step_w, window_h, window_w, tiles_h, tiles_w, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d, g_b, g_g, g_h, g_w, g_d,
    K_H: tl.constexpr, K_W: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, G_ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys: grad_k and grad_v, from all queries that see any of them; rows are keys, columns queries."""
    image, head, residue_y, residue_x, tile_y, tile_x = _locate(
        tl.program_id(0), heads, step_h, step_w, tiles_h, tiles_w
    )
    length_h = (height - residue_y + step_h - 1) // step_h
    length_w = (width - residue_x + step_w - 1) // step_w
    first_y, first_x = tile_y * T_H, tile_x * T_W
    if (first_y >= length_h) | (first_x >= length_w):
        return
    batch, head = image.to(tl.int64), head.to(tl.int64)
    q += tl.multiple_of(batch * q_b + head * q_g, Q_ALIGN)
    k += tl.multiple_of(batch * k_b + head * k_g, K_ALIGN)
    v += tl.multiple_of(batch * v_b + head * v_g, V_ALIGN)
    grad += tl.multiple_of(batch * g_b + head * g_g, G_ALIGN)
    grad_k += (batch * height * width * heads + head) * D
    grad_v += (batch * height * width * heads + head) * E
    lse += (batch * heads + head) * height * width
    delta += (batch * heads + head) * height * width
    bias += head * (2 * K_H - 1) * (2 * K_W - 1)

    row = tl.arange(0, T_H * T_W)
    y, x = first_y + row // T_W, first_x + row % T_W
    exists = (y < length_h) & (x < length_w)
    y, x = tl.minimum(y, length_h - 1), tl.minimum(x, length_w - 1)
    code = _code(y, x, K_W)[:, None]
    image_y, image_x = residue_y + step_h * y, residue_x + step_w * x
    position = image_y * width + image_x
    tile_k = _rows(k, image_y * k_h + image_x * k_w, exists, k_d, D, D_PAD, K_ALIGN)
    tile_v = _rows(v, image_y * v_h + image_x * v_w, exists, v_d, E, E_PAD, V_ALIGN)

    origin_y, extent_h = _seers(first_y, T_H, length_h, window_h, K_H)
    origin_x, extent_w = _seers(first_x, T_W, length_w, window_w, K_W)
    result_k = tl.zeros([T_H * T_W, D_PAD], tl.float32)
    result_v = tl.zeros([T_H * T_W, E_PAD], tl.float32)
    for begin in range(0, extent_h * extent_w, BLOCK):
        query_y, query_x = _divide(begin + tl.arange(0, BLOCK), extent_w)
        query_y, query_x = origin_y + query_y, origin_x + query_x
        real = (query_y < length_h) & (query_x < length_w)
        query_y, query_x = tl.minimum(query_y, length_h - 1), tl.minimum(query_x, length_w - 1)
        at_y, at_x = residue_y + step_h * query_y, residue_x + step_w * query_x
        queries = _rows(q, at_y * q_h + at_x * q_w, real, q_d, D, D_PAD, Q_ALIGN)
        grads = _rows(grad, at_y * g_h + at_x * g_w, real, g_d, E, E_PAD, G_ALIGN).to(tile_v.dtype)
        position_q = at_y * width + at_x
        # A region's last block runs past it: an infinite sum makes the weights of queries that do not exist zero.
        known = tl.load(lse + position_q, mask=real, other=float("inf"))[None, :] * LOG2E
        block_delta = tl.load(delta + position_q, mask=real, other=0.0)[None, :]
        start_y = _window_start(query_y, length_h, window_h, K_H)[None, :]
        start_x = _window_start(query_x, length_w, window_w, K_W)[None, :]
        inside = _neighbors(y[:, None], x[:, None], start_y, start_x, window_h, window_w)
        index = code - _code(query_y - (K_H - 1), query_x - (K_W - 1), K_W)[None, :]
        dot = _dot(tile_k, tl.trans(queries), PRECISION)
        weights = tl.exp2(_scores(dot, scale, bias, index, inside, HAS_BIAS) - known)
        result_v = _dot_add(weights.to(grads.dtype), grads, result_v, PRECISION)
        grad_weights = _dot(tile_v, tl.trans(grads), PRECISION)
        grad_scores = weights * (grad_weights - block_delta)
        result_k = _dot_add(grad_scores.to(queries.dtype), queries, result_k, PRECISION)
    _store(grad_k, result_k * scale, position, exists, heads, D, D_PAD)
    _store(grad_v, result_v, position, exists, heads, E, E_PAD)


@triton.jit
def _seers(first, T: tl.constexpr, length, window, K: tl.constexpr):
    """Return (first query, number of queries) of those that see any of the keys first .. first + T - 1."""
    # The first ``window`` keys are seen from the border on, the last ``window`` up to the other border.
    last = tl.minimum(first + T, length) - 1
    begin = tl.where(first < window, 0, first - (K - 1) // 2)
    end = tl.where(last >= length - window, length, last + (K - 1) // 2 + 1)
    return begin, end - begin


@triton.jit(
    do_not_specialize=[
        "batch",
        "heads",
        "height",
        "width",
        "step_h",
        "step_w",
        "window_h",
        "window_w",
        "extent_h",
        "extent_w",
        "tiles_h",
        "tiles_w",
        "items",
        "items_per_program",
    ]
)
def backward_bias_kernel(
    q, k, v, bias, lse, delta, grad, partial,
    batch, heads, height, width, step_h, step_w, window_h, window_w, extent_h, extent_w, tiles_h, tiles_w,
    items, items_per_program, scale,
    q_b, q_g, q_h, q_w, q_d, k_b, k_g, k_h, k_w, k_d, v_b, v_g, v_h, v_w, v_d, g_b, g_g, g_h, g_w, g_d,
    K_H: tl.constexpr, K_W: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, E: tl.constexpr, E_PAD: tl.constexpr,
    T_H: tl.constexpr, T_W: tl.constexpr, BLOCK: tl.constexpr, DETERMINISTIC: tl.constexpr,
    Q_ALIGN: tl.constexpr, K_ALIGN: tl.constexpr, V_ALIGN: tl.constexpr, G_ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One (head, key block) over a run of query tiles: its share of the bias table's gradient, into its own table.

    An entry of the table collects millions of scores. But the offset of a pair depends only on where a tile's region
    starts relative to the tile, which is the same for all inner tiles and for every image. So gradients of scores are
    summed as a matrix over many (tile, image), and only the sum is spread over the table: images change fastest.
    """
    program = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    blocks = tl.cdiv(extent_h * extent_w, BLOCK)
    begin = (program % blocks) * BLOCK
    first_item = (program // blocks) * items_per_program
    last_item = tl.minimum(first_item + items_per_program, items)
    table_size: tl.constexpr = (2 * K_H - 1) * (2 * K_W - 1)
    partial += (program.to(tl.int64) * heads + head) * table_size
    bias += head * table_size

    row = tl.arange(0, T_H * T_W)
    column_y, column_x = _divide(begin + tl.arange(0, BLOCK), extent_w)
    collected = tl.zeros([T_H * T_W, BLOCK], tl.float32)
    for item in range(first_item, last_item):
        image, residue_y, residue_x, first_y, first_x, length_h, length_w = _locate_item(
            item, items, batch, height, width, step_h, step_w, tiles_h, tiles_w, T_H, T_W
        )
        origin_y = _region_start(first_y, length_h, extent_h, K_H)
        origin_x = _region_start(first_x, length_w, extent_w, K_W)
        y, x = first_y + row // T_W, first_x + row % T_W
        exists = (y < length_h) & (x < length_w)
        y, x = tl.minimum(y, length_h - 1), tl.minimum(x, length_w - 1)
        start_y = _window_start(y, length_h, window_h, K_H)[:, None]
        start_x = _window_start(x, length_w, window_w, K_W)[:, None]
        key_y, key_x = origin_y + column_y, origin_x + column_x
        real = (key_y < length_h) & (key_x < length_w)
        inside = _neighbors(key_y[None, :], key_x[None, :], start_y, start_x, window_h, window_w)

        wide = image.to(tl.int64)
        base_q = q + tl.multiple_of(wide * q_b + head * q_g, Q_ALIGN)
        base_k = k + tl.multiple_of(wide * k_b + head * k_g, K_ALIGN)
        base_v = v + tl.multiple_of(wide * v_b + head * v_g, V_ALIGN)
        base_g = grad + tl.multiple_of(wide * g_b + head * g_g, G_ALIGN)
        base_row = (wide * heads + head) * height * width
        image_y, image_x = residue_y + step_h * y, residue_x + step_w * x
        position = image_y * width + image_x
        tile_q = _rows(base_q, image_y * q_h + image_x * q_w, exists, q_d, D, D_PAD, Q_ALIGN)
        tile_g = _rows(base_g, image_y * g_h + image_x * g_w, exists, g_d, E, E_PAD, G_ALIGN).to(v.dtype.element_ty)
        known = tl.load(lse + base_row + position, mask=exists, other=float("inf"))[:, None] * LOG2E
        tile_delta = tl.load(delta + base_row + position, mask=exists, other=0.0)[:, None]
        image_y, image_x = residue_y + step_h * key_y, residue_x + step_w * key_x
        keys = _rows(base_k, image_y * k_h + image_x * k_w, real, k_d, D, D_PAD, K_ALIGN)
        values = _rows(base_v, image_y * v_h + image_x * v_w, real, v_d, E, E_PAD, V_ALIGN)
        index = _code(key_y, key_x, K_W)[None, :] - _code(y - (K_H - 1), x - (K_W - 1), K_W)[:, None]
        dot = _dot(tile_q, tl.trans(keys), PRECISION)
        weights = tl.exp2(_scores(dot, scale, bias, index, inside, True) - known)
        grad_weights = _dot(tile_g, tl.trans(values), PRECISION)
        collected += weights * (grad_weights - tile_delta)

        # Spread the sum where the next tile's region stands elsewhere, or where there is no next one.
        _, _, _, next_y, next_x, next_length_h, next_length_w = _locate_item(
            item + 1, items, batch, height, width, step_h, step_w, tiles_h, tiles_w, T_H, T_W
        )
        same_y = _region_start(next_y, next_length_h, extent_h, K_H) - next_y == origin_y - first_y
        same_x = _region_start(next_x, next_length_w, extent_w, K_W) - next_x == origin_x - first_x
        if (item + 1 == last_item) | (not (same_y & same_x)):
            dy, dx = column_y + (origin_y - first_y), column_x + (origin_x - first_x)
            _spread(collected, partial, row, dy, dx, K_H, K_W, T_H, T_W, DETERMINISTIC)
            collected = tl.zeros([T_H * T_W, BLOCK], tl.float32)


@triton.jit
def _locate_item(
    item, items, batch, height, width, step_h, step_w, tiles_h, tiles_w, T_H: tl.constexpr, T_W: tl.constexpr
):
    """Decode an item into (image, residues, first position of the tile, lengths of its class); images go fastest."""
    image, _, residue_y, residue_x, tile_y, tile_x = _locate(
        (item % batch) * (items // batch) + item // batch, 1, step_h, step_w, tiles_h, tiles_w
    )
    length_h = (height - residue_y + step_h - 1) // step_h
    length_w = (width - residue_x + step_w - 1) // step_w
    return image, residue_y, residue_x, tile_y * T_H, tile_x * T_W, length_h, length_w


@triton.jit
def _spread(
    matrix, table, row, key_y, key_x,
    K_H: tl.constexpr, K_W: tl.constexpr, T_H: tl.constexpr, T_W: tl.constexpr, DETERMINISTIC: tl.constexpr,
):  # fmt: skip
    """Add a matrix over (queries of a tile, keys relative to its first query) to the table at ``table``."""
    if DETERMINISTIC:
        # The keys of one query have distinct offsets: query after query, every entry is added to in a fixed order.
        for query in range(T_H * T_W):
            dy = key_y - query // T_W + (K_H - 1)
            dx = key_x - query % T_W + (K_W - 1)
            exists = (dy >= 0) & (dy < 2 * K_H - 1) & (dx >= 0) & (dx < 2 * K_W - 1)
            values = tl.sum(tl.where((row == query)[:, None], matrix, 0.0), 0)
            index = _code(dy, dx, K_W)
            tl.debug_barrier()
            old = tl.load(table + index, mask=exists, other=0.0)
            tl.debug_barrier()
            tl.store(table + index, old + values, mask=exists)
    else:
        dy = key_y[None, :] - (row // T_W)[:, None] + (K_H - 1)
        dx = key_x[None, :] - (row % T_W)[:, None] + (K_W - 1)
        exists = (dy >= 0) & (dy < 2 * K_H - 1) & (dx >= 0) & (dx < 2 * K_W - 1) & (matrix != 0.0)
        tl.atomic_add(table + _code(dy, dx, K_W), matrix, mask=exists, sem="relaxed")
