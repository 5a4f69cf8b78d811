"""How the Triton kernels cut a map into tiles, and which tiles are alike; ``triton_kernels.py`` has the words.

Which keys a query sees, and with which entry of the bias table, depends on its tile only by how the tile lies to the
borders of its class. Tiles that lie alike are of one *kind*: a map of any size has a few kinds an axis (first, inner,
last, for either length of a class), and the two axes are independent of each other. So bias and window of all tiles are
a few matrices, one for each pair of kinds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from a2mamba.ops.neighborhood.reference import effective_window

FIELDS = 8
"""Numbers of a row in the tables of an axis."""


@dataclass(frozen=True, eq=False)
class Axis:
    """The tiles of one axis. Tables are int32, (rows, FIELDS); what a row has no use for is zero."""

    tiles: Tensor
    """(kind, first position, origin of the region), positions in the map; tiles of a kind follow one another"""
    kinds: Tensor
    """of one tile of the kind, in its class: (first position, origin of the region, length of the class); then the
    first tile of the kind and their number"""
    counts: tuple[int, ...]
    """tiles of every kind"""
    extent: int
    """positions of the longest region"""
    step: int
    """the dilation, cut to what the axis holds"""
    window: int
    """the window, likewise"""


def _classes(length: int, step: int, tile: int) -> Iterator[tuple[int, int, int]]:
    """Yield (residue, length of the class, first position) of every tile."""
    for residue in range(step):
        n = (length - residue + step - 1) // step
        for first in range(0, n, tile):
            yield residue, n, first


def _seen(first: int, last: int, n: int, window: int, kernel: int) -> tuple[int, int]:
    """Return the first and the last key that the queries ``first`` to ``last`` see."""
    start, end = (min(max(p - (kernel - 1) // 2, 0), n - window) for p in (first, last))
    return start, end + window - 1


def _seers(first: int, last: int, n: int, window: int, kernel: int) -> tuple[int, int]:
    """Return the first and the last query that see any of the keys ``first`` to ``last``."""
    # The first ``window`` keys are seen from the border on, the last ``window`` up to the other border.
    begin = 0 if first < window else first - (kernel - 1) // 2
    return begin, n - 1 if last >= n - window else last + (kernel - 1) // 2


@cache  # a table is a kilobyte, and recorded CUDA graphs read it for as long as they live
def axis(length: int, kernel: int, dilation: int, tile: int, of_keys: bool, device: torch.device) -> Axis:
    """Return the tiles of an axis, of queries with the keys that they see, or of keys with their queries."""
    window, step = effective_window(length, kernel, dilation)
    region = _seers if of_keys else _seen
    # A tile lies as another does if its region begins alike and the borders are as near, or out of reach.
    half = (kernel - 1) // 2
    before, behind = (kernel, tile + kernel) if of_keys else (half, tile + half)
    kinds: dict[tuple[int, ...], list[tuple[int, int, int, int]]] = {}
    extent = 0
    for residue, n, first in _classes(length, step, tile):
        last = min(first + tile, n) - 1
        begin, end = region(first, last, n, window, kernel)
        extent = max(extent, end - begin + 1)
        key = begin - first, min(first, before), min(n - first, behind)
        kinds.setdefault(key, []).append((residue, n, first, begin))
    tiles: list[list[int]] = []
    rows: list[list[int]] = []
    for kind, members in enumerate(kinds.values()):
        _, n, first, begin = members[0]
        rows.append([first, begin, n, len(tiles), len(members), 0, 0, 0])
        tiles += [[kind, r + step * f, r + step * o, 0, 0, 0, 0, 0] for r, _, f, o in members]
    in_map, in_class = (torch.tensor(table, dtype=torch.int32, device=device) for table in (tiles, rows))
    return Axis(in_map, in_class, tuple(len(members) for members in kinds.values()), extent, step, window)


@dataclass(frozen=True, eq=False)
class Tiling:
    """The tiles of a map: those of its two axes, in all pairs."""

    vertical: Axis
    horizontal: Axis
    shape: tuple[int, int]
    """rows and columns of a tile"""
    block: int
    """columns of a score matrix that are computed at a time"""

    @property
    def tables(self) -> dict[str, Tensor]:
        """The tiles of both axes, under the names of the kernels' arguments."""
        return {"vertical": self.vertical.tiles, "horizontal": self.horizontal.tiles}

    @property
    def kind_tables(self) -> dict[str, Tensor]:
        """The kinds of both axes, likewise."""
        return {"kinds_vertical": self.vertical.kinds, "kinds_horizontal": self.horizontal.kinds}

    @property
    def number(self) -> int:
        """Tiles of an image."""
        return len(self.vertical.tiles) * len(self.horizontal.tiles)

    @property
    def kinds(self) -> int:
        """Pairs of kinds."""
        return len(self.vertical.counts) * len(self.horizontal.counts)

    @property
    def columns(self) -> int:
        """Columns of a score matrix: positions of the largest region, in whole blocks."""
        return math.ceil(self.vertical.extent * self.horizontal.extent / self.block) * self.block


@cache
def tiling(
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    tile: tuple[int, int],
    block: int,
    of_keys: bool,
    device: torch.device,
) -> Tiling:
    """Return the tiles of a map of ``size``; of queries, or ``of_keys``."""
    vertical, horizontal = (
        axis(*settings, of_keys, device) for settings in zip(size, kernel_size, dilation, tile, strict=True)
    )
    return Tiling(vertical, horizontal, tile, block)


@cache
def choose_tile(
    tiles: tuple[tuple[int, int], ...],
    size: tuple[int, int],
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    block: int,
) -> tuple[int, int]:
    """Return the one of ``tiles`` that computes the fewest scores on a map of ``size``, in blocks of ``block`` keys."""
    window_h, step_h = effective_window(size[0], kernel_size[0], dilation[0])
    window_w, step_w = effective_window(size[1], kernel_size[1], dilation[1])
    long_h, long_w = math.ceil(size[0] / step_h), math.ceil(size[1] / step_w)

    def scores(tile: tuple[int, int]) -> int:
        count = math.ceil(long_h / tile[0]) * math.ceil(long_w / tile[1])
        region = min(tile[0] + window_h - 1, long_h) * min(tile[1] + window_w - 1, long_w)
        return count * tile[0] * tile[1] * math.ceil(region / block) * block

    return min(tiles, key=scores)


@dataclass(frozen=True, eq=False)
class Runs:
    """How the gradient of the bias is shared out: a run is some (tile, image) pairs of one kind."""

    table: Tensor
    """int32, (runs, 4): (pair of kinds, first pair of tile and image, end); images change fastest"""
    first: Tensor
    """int32, (kinds + 1): the first run of every pair of kinds, and their number"""


@cache
def runs(found: Tiling, batch: int, most: int) -> Runs:
    """Return the runs of a batch, of ``most`` pairs each at most."""
    table, first = [], [0]
    for kind in range(found.kinds):
        row, column = divmod(kind, len(found.horizontal.counts))
        items = found.vertical.counts[row] * found.horizontal.counts[column] * batch
        table += [[kind, begin, min(begin + most, items), 0] for begin in range(0, items, most)]
        first.append(len(table))
    device = found.vertical.tiles.device
    return Runs(*(torch.tensor(each, dtype=torch.int32, device=device) for each in (table, first)))
