"""Neighborhood attention from dense tiles, in plain PyTorch: fast on every device, nothing to compile.

Queries are cut into tiles of T positions an axis. The neighborhoods of a tile lie in one block of T + K - 1 keys an
axis, so a tile is one small dense attention with an additive mask that holds the bias inside the windows and -inf
outside. Dilation r makes r residue classes an axis, each an undilated sequence of its own. A *part* is one tile of one
class on one axis. Row parts with the same mask (all inner tiles, for example) form a *strip group*; a group is one
call of scaled_dot_product_attention whose mask is shared by the batch and by its strips. So the masks take
O(W), the gathered keys O((1 + (K - 1) / T)^2) of the features, and a stored map is never needed: the backward
recomputes the weights strip by strip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from a2mamba.ops.neighborhood.reference import effective_window

DENSE = 14
"""A sequence of at most this many positions is one tile. Chosen by timing on a CPU, like the tiles below."""

TILES = {7: 1.1, 8: 1.0}
"""Sizes of the tiles that longer sequences are cut into, and the relative cost of a score in them."""

SCORES_PER_CHUNK = 1 << 23
"""Attention scores that the backward holds at a time (32 MiB of float32, in about four arrays)."""

KEYS_PER_CHUNK = 1 << 15
"""Gathered keys that the forward holds at a time, heads and batch counted: few, so that they stay in the cache."""


@dataclass(frozen=True)
class AxisPlan:
    """The parts of one axis: which positions they query, which they may see, and how the bias is looked up."""

    queries: Tensor  # (parts, T) positions; a tile that overhangs the sequence repeats its last position
    keys: Tensor  # (parts, T + K - 1) positions
    offsets: Tensor  # (parts, T, T + K - 1): key minus query + K - 1, or -1 outside the window
    home: Tensor  # (L,): where each position stands in queries.flatten()


def choose_tile(length: int, window: int) -> int:
    """Return how many positions of a sequence a tile spans: those that cost the least scores, padding counted."""
    if length <= DENSE:
        return length

    def cost(tile: int) -> float:
        return TILES[tile] * math.ceil(length / tile) * tile * min(tile + window - 1, length)

    return min(TILES, key=cost)


def plan_axis(length: int, kernel_size: int, dilation: int) -> AxisPlan:
    """Cut one axis into parts, by the rule in ``reference.py``."""
    window, step = effective_window(length, kernel_size, dilation)
    half = (kernel_size - 1) // 2
    longest = math.ceil(length / step)
    tile = choose_tile(longest, window)
    tiles = math.ceil(longest / tile)
    block = min(tile + window - 1, longest)

    residue = torch.arange(step).repeat_interleave(tiles)[:, None]
    first = tile * torch.arange(tiles).repeat(step)[:, None]
    n = (length - residue + step - 1) // step
    query = torch.minimum(first + torch.arange(tile), n - 1)
    start = torch.minimum((first - half).clamp(min=0), (n - block).clamp(min=0))
    key = start + torch.arange(block)

    window_start = torch.minimum((query - half).clamp(min=0), n - window)[:, :, None]
    inside = (key[:, None] >= window_start) & (key[:, None] < window_start + window)
    offsets = torch.where(inside, key[:, None] - query[:, :, None] + kernel_size - 1, -1)

    position = torch.arange(length)
    home = ((position % step) * tiles + position // step // tile) * tile + position // step % tile
    return AxisPlan(residue + step * query, residue + step * torch.minimum(key, n - 1), offsets, home)


@dataclass(frozen=True)
class StripGroup:
    """Row parts with the same mask. Indices count rows of one image's (H * W * G, width) matrix."""

    queries: Tensor  # (strips, G * column parts * T * T)
    keys: Tensor  # (strips, G * column parts * keys)
    bias_index: Tensor  # (column parts * T * T * keys): into a flattened bias table, one past its end = outside
    mask_shape: tuple[int, int, int]  # (column parts, queries, keys)


@dataclass(frozen=True)
class Plan:
    """Everything about a map size and a window that does not depend on data."""

    groups: tuple[StripGroup, ...]
    home: Tensor  # (H * W * G): where each row stands among the query rows of all groups, as they were gathered
    output_home: Tensor  # the same among the outputs, which attention stores with the heads inside a tile's positions
    covered: Tensor | None  # (query rows): False where a tile's overhang repeats a position; None if none does


@lru_cache(maxsize=64)
def make_plan(
    size: tuple[int, int], heads: int, kernel_size: tuple[int, int], dilation: tuple[int, int], device: torch.device
) -> Plan:
    """Return the tables of a map size; kept for the 64 most recent combinations."""
    height, width = size
    rows = plan_axis(height, kernel_size[0], dilation[0])
    columns = plan_axis(width, kernel_size[1], dilation[1])
    head = torch.arange(heads)[:, None, None, None]

    def index(row: Tensor, column: Tensor) -> Tensor:
        """(strips, a), (parts, b) positions -> (strips, G * parts * a * b) matrix rows."""
        position = row[:, None, None, :, None] * width + column[None, None, :, None, :]
        return (position * heads + head).flatten(1)

    _, group_of = rows.offsets.flatten(1).unique(dim=0, return_inverse=True)
    outside = (2 * kernel_size[0] - 1) * (2 * kernel_size[1] - 1)
    dx = columns.offsets[:, None, :, None, :]
    groups, strip_order = [], []
    for group in range(int(group_of.max()) + 1):
        strips = (group_of == group).nonzero()[:, 0]
        strip_order.append(strips)
        dy = rows.offsets[strips[0]][None, :, None, :, None]
        offset = torch.where((dy < 0) | (dx < 0), outside, dy * (2 * kernel_size[1] - 1) + dx)
        parts, t_h, t_w, k_h, k_w = offset.shape
        groups.append(
            StripGroup(
                queries=index(rows.queries[strips], columns.queries),
                keys=index(rows.keys[strips], columns.keys),
                bias_index=offset.flatten(),
                mask_shape=(parts, t_h * t_w, k_h * k_w),
            )
        )

    # Where every (position, head) is found among the query rows, strips being in group order.
    order = torch.cat(strip_order)
    t_h, t_w, parts = rows.queries.shape[1], columns.queries.shape[1], len(columns.queries)
    strip = order.argsort()[rows.home // t_h][:, None, None]
    column_part, in_row, in_column = columns.home // t_w, rows.home % t_h, columns.home % t_w
    head_part = torch.arange(heads) * parts + column_part[None, :, None]
    in_tile = in_row[:, None, None] * t_w + in_column[None, :, None]
    home = ((strip * heads * parts + head_part) * t_h * t_w + in_tile).flatten()
    output_home = ((strip * t_h * t_w + in_tile) * heads * parts + head_part).flatten()
    covered = torch.zeros(sum(g.queries.numel() for g in groups), dtype=torch.bool)
    covered[home] = True

    return Plan(
        groups=tuple(
            StripGroup(g.queries.to(device), g.keys.to(device), g.bias_index.to(device), g.mask_shape) for g in groups
        ),
        home=home.to(device),
        output_home=output_home.to(device),
        covered=None if bool(covered.all()) else covered.to(device),
    )


@lru_cache(maxsize=64)
def key_slots(
    size: tuple[int, int], heads: int, kernel_size: tuple[int, int], dilation: tuple[int, int], device: torch.device
) -> Tensor:
    """Return (H * W * G, m): for every row, which of the gathered key rows are copies of it, padded with their number.

    Only the backward needs it.
    """
    plan = make_plan(size, heads, kernel_size, dilation, device)
    return _invert(torch.cat([g.keys.flatten() for g in plan.groups]).cpu(), size[0] * size[1] * heads).to(device)


def _invert(index: Tensor, size: int) -> Tensor:
    """Return (size, m): the places at which each value stands in ``index``, padded with len(index)."""
    order = index.argsort(stable=True)
    counts = torch.bincount(index, minlength=size)
    rank = torch.arange(len(index)) - (counts.cumsum(0) - counts)[index[order]]
    slots = torch.full((size, int(counts.max())), len(index))
    slots[index[order], rank] = order
    return slots


def _matrix(x: Tensor) -> Tensor:
    """(B, G, H, W, width) -> (B, H * W * G, width); without a copy when heads lie inside positions."""
    return x.permute(0, 2, 3, 1, 4).flatten(1, 3)


def _unmatrix(x: Tensor, like: Tensor) -> Tensor:
    """Invert :func:`_matrix` to the shape of ``like`` but for the last axis."""
    batch, heads, height, width, _ = like.shape
    return x.view(batch, height, width, heads, -1).permute(0, 3, 1, 2, 4)


def _widen(x: Tensor, width: int) -> Tensor:
    """Pad the last axis with zeros; F.pad would copy even where there is nothing to pad."""
    return x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1]))


def _take(matrix: Tensor, index: Tensor) -> Tensor:
    """(B, N, width), (...) -> (B, *index.shape, width): rows of every image."""
    batch, n, width = matrix.shape
    base = n * torch.arange(batch, device=matrix.device)
    flat = (base.view(-1, *[1] * index.dim()) + index).flatten()
    return matrix.reshape(-1, width).index_select(0, flat).view(batch, *index.shape, width)


def _mask(table: Tensor, group: StripGroup) -> Tensor:
    """(G, table size + 1) -> (G * parts, queries, keys), -inf outside the windows."""
    _, queries, keys = group.mask_shape
    return table.index_select(1, group.bias_index).view(-1, queries, keys)


def _bias_table(bias: Tensor | None, kernel_size: tuple[int, int], q: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the flattened table (G, n + 1) for queries ``q``; its last entry stands for "outside"."""
    size = (2 * kernel_size[0] - 1) * (2 * kernel_size[1] - 1)
    table = q.new_zeros(q.shape[1], size, dtype=dtype) if bias is None else bias.to(dtype).flatten(1)
    return F.pad(table, (0, 1), value=-math.inf)


def _chunks(group: StripGroup, per_strip: int, limit: int) -> Iterator[slice]:
    """Split a group's strips so that a chunk holds at most ``limit`` entries, or one strip."""
    strips = group.queries.shape[0]
    size = max(1, limit // max(1, per_strip))
    for start in range(0, strips, size):
        yield slice(start, min(start + size, strips))


def _tiles(matrix: Tensor, index: Tensor, heads_parts: int) -> Tensor:
    """Gather (B, N, width) by (strips, rows) into (B * strips, G * parts, rows a part, width)."""
    return _take(matrix, index).view(-1, heads_parts, index.shape[1] // heads_parts, matrix.shape[-1])


def _compute_dtype(q: Tensor, v: Tensor) -> torch.dtype:
    """Return the dtype of scores and weights: at least float32 on CPUs, where attention in 16 bits is slower."""
    dtype = torch.promote_types(q.dtype, v.dtype)
    return torch.promote_types(dtype, torch.float32) if v.device.type == "cpu" else dtype


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    """Return neighborhood attention; arguments as in ``reference.neighborhood_attention``."""
    batch, heads, height, width, v_width = v.shape
    if batch == 0:
        return torch.empty_like(v)
    dtype = _compute_dtype(q, v)
    plan = make_plan((height, width), heads, kernel_size, dilation, v.device)
    # One head width for queries and values, as the fused kernels want it; zero channels change no score.
    shared = max(q.shape[-1], v_width)
    mq, mk, mv = (_matrix(_widen(x.to(dtype), shared)) for x in (q, k, v))
    table = _bias_table(bias, kernel_size, q, dtype)
    outputs = []
    for group in plan.groups:
        mask = _mask(table, group)
        for strips in _chunks(group, batch * group.keys.shape[1], KEYS_PER_CHUNK):
            tile_q = _tiles(mq, group.queries[strips], len(mask))
            tile_k = _tiles(mk, group.keys[strips], len(mask))
            tile_v = _tiles(mv, group.keys[strips], len(mask))
            tile = F.scaled_dot_product_attention(tile_q, tile_k, tile_v, attn_mask=mask[None], scale=scale)
            # The fused kernels store heads inside positions: in that order this is a view.
            outputs.append(tile[..., :v_width].transpose(1, 2).reshape(batch, -1, v_width))
    return _unmatrix(_take(torch.cat(outputs, dim=1), plan.output_home), v).to(v.dtype)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of q, k, v and of the bias table (zeros of shape (G, 2 K_h - 1, 2 K_w - 1) without one)."""
    batch, heads, height, width, _ = v.shape
    dtype = torch.promote_types(q.dtype, v.dtype)
    shape = (heads, 2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1)
    bias_dtype = dtype if bias is None else bias.dtype
    if batch == 0:
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), q.new_zeros(shape, dtype=bias_dtype)
    plan = make_plan((height, width), heads, kernel_size, dilation, v.device)
    mq, mk, mv, mg = (_matrix(x.to(dtype)) for x in (q, k, v, grad))
    table = _bias_table(bias, kernel_size, q, dtype)
    grad_table = torch.zeros_like(table)
    grads: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    seen = 0
    for group in plan.groups:
        mask = _mask(table, group)
        grad_mask = torch.zeros_like(mask)
        for strips in _chunks(group, batch * mask.numel(), SCORES_PER_CHUNK):
            index = group.queries[strips]
            tile_q, tile_g = _tiles(mq, index, len(mask)), _tiles(mg, index, len(mask))
            tile_k, tile_v = (_tiles(m, group.keys[strips], len(mask)) for m in (mk, mv))
            if plan.covered is not None:
                covered = plan.covered[seen : seen + index.numel()].view(len(index), len(mask), -1, 1)
                tile_g = (tile_g.unflatten(0, (batch, len(index))) * covered).flatten(0, 1)
            seen += index.numel()
            scores = torch.bmm(tile_q.flatten(0, 1) * scale, tile_k.flatten(0, 1).transpose(1, 2))
            weights = scores.view(-1, *mask.shape).add_(mask).softmax(-1).flatten(0, 1)
            flat_g = tile_g.flatten(0, 1)
            grads[2].append(torch.bmm(weights.transpose(1, 2), flat_g).view(batch, -1, tile_v.shape[-1]))
            grad_weights = torch.bmm(flat_g, tile_v.flatten(0, 1).transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_mask += grad_scores.view(-1, *mask.shape).sum(0)
            grad_q = torch.bmm(grad_scores, tile_k.flatten(0, 1)) * scale
            grad_k = torch.bmm(grad_scores.transpose(1, 2), tile_q.flatten(0, 1)) * scale
            grads[0].append(grad_q.view(batch, -1, tile_q.shape[-1]))
            grads[1].append(grad_k.view(batch, -1, tile_k.shape[-1]))
        grad_table.index_add_(1, group.bias_index, grad_mask.view(heads, -1))
    grad_q = _unmatrix(_take(torch.cat(grads[0], dim=1), plan.home), q).to(q.dtype)
    slots = key_slots((height, width), heads, kernel_size, dilation, v.device)
    grad_k = _unmatrix(_collect(torch.cat(grads[1], dim=1), slots), k).to(k.dtype)
    grad_v = _unmatrix(_collect(torch.cat(grads[2], dim=1), slots), v).to(v.dtype)
    return grad_q, grad_k, grad_v, grad_table[:, :-1].reshape(shape).to(bias_dtype)


def _collect(tiles: Tensor, slots: Tensor) -> Tensor:
    """Sum the gathered key rows (B, key rows, width) back onto the rows that they copied, in a fixed order."""
    padded = F.pad(tiles, (0, 0, 0, 1))
    out = _take(padded, slots[:, 0])
    for copy in slots.T[1:]:
        out += _take(padded, copy)
    return out
