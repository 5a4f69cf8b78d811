"""Neighborhood attention as dense attention over tiles, for runtimes that have no such operator.

The positions of a map are cut into tiles of queries; every tile attends to the smallest rectangle that holds the
neighborhoods of all its queries, and a constant bias excludes those pairs that are no neighbors. Dilated attention is
the same within the residue classes, which are maps of their own. A tile's positions come from index tables that the
graph holds as constants; its work is two dense matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from a2mamba.export.graph import constant, reshape
from a2mamba.ops.neighborhood.reference import effective_window

TILES = (4, 5, 6, 7, 8, 10, 12, 14, 16)
"""Queries along an axis that are tried for a tile, beside the whole axis."""
GATHER_COST = 12.0
"""Moving a token of a tile takes about as long as so many pairs of it: measured in ONNX Runtime on the maps of tiny."""


Table = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Axis:
    """How an axis is cut: T tiles of Q queries, each with K' keys."""

    queries: Table
    """(T, Q), positions; short tiles repeat their last"""
    keys: Table
    """(T, K'), positions"""
    offsets: Table
    """(T, Q, K'), key minus query plus K - 1, the row of the bias table; 2 K - 1 where they are no neighbors"""

    def places(self, length: int) -> tuple[Table, Table]:
        """Return the tile and the place in it of every position; of repeated ones the first."""
        _, first = np.unique(self.queries.flatten(), return_index=True)
        assert len(first) == length
        tile, place = np.divmod(first, self.queries.shape[1])
        return tile, place


@cache
def cut_axis(length: int, kernel_size: int, dilation: int, tile: int) -> Axis:
    """Return an axis cut into tiles of at most so many queries; pairs follow the rule of ``ops/neighborhood``."""
    window, step = effective_window(length, kernel_size, dilation)
    longest = -(-length // step)
    size = min(tile, longest)
    keys_of_tile = min(size + window - 1, longest)
    queries, keys, offsets = [], [], []
    for residue in range(step):
        n = (length - residue + step - 1) // step
        for first in range(0, n, size):
            q = np.minimum(first + np.arange(size), n - 1)
            k = max(0, min(first - (kernel_size - 1) // 2, n - keys_of_tile)) + np.arange(keys_of_tile)
            begin = np.clip(q - (kernel_size - 1) // 2, 0, n - window)[:, None]
            near = (k >= begin) & (k < begin + window)
            queries.append(residue + step * q)
            keys.append(residue + step * np.minimum(k, n - 1))
            offsets.append(np.where(near, k - q[:, None] + kernel_size - 1, 2 * kernel_size - 1))
    return Axis(np.stack(queries), np.stack(keys), np.stack(offsets))


@cache
def cut_map(height: int, width: int, kernel_size: tuple[int, int], dilation: tuple[int, int]) -> tuple[Axis, Axis]:
    """Return the cut of both axes that costs least."""
    best, least = None, float("inf")
    for rows in {min(tile, height) for tile in (*TILES, height)}:
        for columns in {min(tile, width) for tile in (*TILES, width)}:
            y = cut_axis(height, kernel_size[0], dilation[0], rows)
            x = cut_axis(width, kernel_size[1], dilation[1], columns)
            count = y.queries.shape[0] * x.queries.shape[0]
            queries, keys = y.queries.shape[1] * x.queries.shape[1], y.keys.shape[1] * x.keys.shape[1]
            cost = count * (queries * keys + GATHER_COST * (queries + 2 * keys))
            if cost < least:
                best, least = (y, x), cost
    assert best is not None
    return best


def neighborhood_attention(
    q: Any,
    k: Any,
    v: Any,
    bias: Any | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> Any:
    """Return neighborhood attention of (B, G, H, W, d) values of a graph; arguments as the operator's."""
    from onnxscript import opset18 as op

    heads, height, width, channels = (int(size) for size in v.shape[1:])
    window = (int(kernel_size[0]), int(kernel_size[1]))
    y, x = cut_map(height, width, window, (int(dilation[0]), int(dilation[1])))
    queries, keys = grid(y.queries, x.queries, width), grid(y.keys, x.keys, width)
    scores = op.MatMul(
        op.Mul(_tiles(q, queries), constant(np.float32(scale))), op.Transpose(_tiles(k, keys), perm=[0, 1, 2, 4, 3])
    )
    attention = op.Softmax(op.Add(scores, _pair_bias(bias, heads, window, y, x)), axis=-1)
    out = reshape(op.MatMul(attention, _tiles(v, keys)), 0, 0, queries.size, channels)
    return reshape(_take(out, slots(y, x, height, width), queries.size), 0, 0, height, width, channels)


def slots(y: Axis, x: Axis, height: int, width: int) -> Table:
    """Return (H, W): where each position of a map stands among the queries of all tiles."""
    (row, p), (column, r) = y.places(height), x.places(width)
    tile = row[:, None] * len(x.queries) + column
    return (tile * y.queries.shape[1] + p[:, None]) * x.queries.shape[1] + r


def grid(rows: Table, columns: Table, width: int) -> Table:
    """Positions (T_h, n_h) and (T_w, n_w) along the axes -> (T_h T_w, n_h n_w) tokens of a map of this width."""
    tokens = rows[:, None, :, None] * width + columns[None, :, None, :]
    return tokens.reshape(len(rows) * len(columns), -1)


def _tiles(x: Any, tokens: Table) -> Any:
    """(B, G, H, W, d) and tokens (T, n) -> (B, G, T, n, d)."""
    count, channels = int(x.shape[2]) * int(x.shape[3]), int(x.shape[4])
    return reshape(_take(reshape(x, 0, 0, count, channels), tokens, count), 0, 0, *tokens.shape, channels)


def _take(x: Any, tokens: Table, count: int) -> Any:
    """Tokens of x (B, G, count, d); nothing is moved where they are all of them in order."""
    from onnxscript import opset18 as op

    flat = tokens.flatten()
    return x if np.array_equal(flat, np.arange(count)) else op.Gather(x, constant(flat), axis=2)


def _pair_bias(bias: Any | None, heads: int, window: tuple[int, int], y: Axis, x: Axis) -> Any:
    """Return (G, T, Q, K'): the bias of every pair of a tile, minus infinity for those that are no neighbors.

    Without a bias, G is 1. No step has more than five axes.
    """
    from onnxscript import opset18 as op

    if bias is None:
        bias, heads = constant(np.zeros((1, 2 * window[0] - 1, 2 * window[1] - 1), np.float32)), 1
    table = op.Pad(bias, constant(np.array([0, 0, 0, 0, 1, 1])), constant(np.float32("-inf")))
    pairs = op.Gather(op.Gather(table, constant(y.offsets.flatten()), axis=1), constant(x.offsets.flatten()), axis=2)
    (th, qh, kh), (tw, qw, kw) = y.offsets.shape, x.offsets.shape
    pairs = op.Transpose(reshape(pairs, heads, th, qh * kh, tw, qw * kw), perm=[0, 1, 3, 2, 4])
    pairs = op.Transpose(reshape(pairs, heads * th * tw, qh, kh, qw, kw), perm=[0, 1, 3, 2, 4])
    return reshape(pairs, heads, th * tw, qh * qw, kh * kw)
