"""Neighborhood attention on CPUs through Numba: tables, memory, the calls of the kernels in ``numba_kernels*.py``.

Numba is imported, and a kernel compiled or read from Numba's cache on disk, at its first run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import torch
from torch import Tensor

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES, numba_missing, unfit
from a2mamba.ops.neighborhood.reference import effective_window
from a2mamba.ops.numba_arguments import cast, empty_heads, place_of_heads
from a2mamba.ops.recording import kept

STORED = 2**20
"""Numbers of a map that are stored for its next application, at most: what caches hold."""


def why_not(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> str | None:
    """Return why the kernels cannot run the arguments of ``reference.neighborhood_attention``, or None."""
    objection = numba_missing(q) or unfit(q=q, k=k, v=v, bias=bias)
    if objection is not None:
        return objection
    for name, tensor in (("q and k", q), ("v", v)):
        if tensor.shape[-1] < LANES or tensor.shape[-1] % 4:
            return f"heads of {name} must be a multiple of 4 and at least {LANES} wide, got {tensor.shape[-1]}"
    return None


@dataclass(frozen=True)
class Plan:
    """Everything about a map size and a window that does not depend on data."""

    window: int  # keys a column, that is, rows of keys that a query sees
    strips: Tensor  # (strips, 5) int64: row, second row or -1, place of the first in its class, first keys of both
    tiles: Tensor  # (tiles, 5) int64: first column; of its queries first offset, offsets; of its keys the same
    masks: Tensor  # (tiles, most offsets, 8): 0 where an offset lies in a query's window, otherwise -inf
    weights: int  # float32 numbers that a tile's weights take
    tile_count: int  # of tiles of all strips
    numbers: tuple[int, ...]  # what kernels are told of all this


def _windows(length: int, kernel_size: int, dilation: int) -> tuple[int, int, Tensor, Tensor]:
    """Return window, dilation, and for every position its place in its class and the place of its first key."""
    window, step = effective_window(length, kernel_size, dilation)
    position = torch.arange(length, device="cpu")
    place, size = position // step, (length - position % step + step - 1) // step
    return window, step, place, torch.minimum((place - (kernel_size - 1) // 2).clamp(min=0), size - window)


@kept(maxsize=64)
def make_plan(height: int, width: int, kernel_size: tuple[int, int], dilation: tuple[int, int]) -> Plan:
    """Return the tables of a map size; kept for the 64 most recent combinations."""
    window, step, place, start = _windows(height, kernel_size[0], dilation[0])
    strips = []
    for y in range(height):
        if int(place[y]) % 2 == 0:
            second = y + step if y + step < height else -1
            strips.append([y, second, int(place[y]), int(start[y]), int(start[second]) if second >= 0 else 0])

    window_w, step_w, place, start = _windows(width, kernel_size[1], dilation[1])
    first = start - place
    offsets = first[:, None] + torch.arange(window_w, device="cpu")
    key = torch.arange(width, device="cpu")[:, None] + offsets * step_w
    tiles = []
    for x in range(0, width, LANES):
        lowest, highest = int(first[x : x + LANES].min()), int(first[x : x + LANES].max())
        seen_at = offsets[(key >= x) & (key < x + LANES)]
        reach = int(seen_at.max() - seen_at.min()) + 1
        tiles.append([x, lowest, highest + window_w - lowest, int(seen_at.min()), reach])
    most = max(tile[2] for tile in tiles)
    masks = torch.zeros(len(tiles), most, LANES, dtype=torch.float32, device="cpu")
    for mask, (x, lowest, *_) in zip(masks, tiles, strict=True):
        for lane, own in enumerate((first[x : x + LANES] - lowest).tolist()):
            mask[:own, lane] = mask[own + window_w :, lane] = -torch.inf
    # A default device that the caller has set is not meant for tables.
    strip_table, tile_table = (torch.tensor(table, dtype=torch.int64, device="cpu") for table in (strips, tiles))
    tables = (strip_table.data_ptr(), len(strips), tile_table.data_ptr(), len(tiles), masks.data_ptr(), most)
    weights, numbers = (window * most + 4) * LANES, (*kernel_size, window, step, step_w, *tables)
    return Plan(window, strip_table, tile_table, masks, weights, len(strips) * len(tiles), numbers)


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
    return apply(None, q, k, v, bias, kernel_size, dilation, scale, again=False)[0]


def apply(
    memory: Tensor | bool | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
    *,
    again: bool,
) -> tuple[Tensor, Tensor | bool]:
    """Return the map applied to ``v``, and what the next application of the same map is to be given as ``memory``.

    Args:
        memory: None for the first application.
        q, k, v, bias, kernel_size, dilation, scale: as in ``reference.neighborhood_attention``.
        again: whether another application will follow. The map is then stored if it is small: reading what the cache
            still holds is faster than computing it once more, and reading it from memory is not.
    """
    if not v.numel():
        return empty_heads(v, v.dtype), True
    in_pairs = multiplies_pairs(q, k, v)
    dtype = torch.bfloat16 if in_pairs else torch.float32
    inputs = rows(q, dtype), rows(k, dtype), rows(v, dtype)
    out = empty_heads(v, dtype)
    table = bias_table(bias, v, kernel_size)
    _, _, height, width, _ = v.shape
    plan = make_plan(height, width, kernel_size, dilation)
    places = [place_of_heads(each) for each in (*inputs, out)]
    memory = attend(in_pairs, plan, (*q.shape, v.shape[4]), scale, table, places, memory, again)
    return cast(out, v.dtype), memory


def attend(
    in_pairs: bool,
    plan: Plan,
    sizes: Sequence[int],
    scale: float,
    table: Tensor,
    places: Sequence[Sequence[int]],
    memory: Tensor | bool | None,
    again: bool,
) -> Tensor | bool:
    """Run a forward kernel; return what :func:`apply` does as memory.

    Args:
        in_pairs: whether the kernel is the one for bfloat16.
        plan: of the map and its window.
        sizes: B, heads, H, W, width of queries and keys, width of values.
        scale: of the scores.
        table: of biases, see :func:`bias_table`.
        places: address and steps of batch, heads, rows and columns, in bytes, of q, k, v and of the result.
        memory, again: as in :func:`apply`.
    """
    batch, heads, height, width, q_width, v_width = sizes
    images = batch * heads
    # A thread packs and attends to whole images, which stay in its cache, where there are enough of them.
    chunks, workers = numba_threads.shares(images, height)
    whole = chunks == 1
    # Of every tile of two rows, weights and what they are to be divided by.
    slots = plan.tile_count * 2 * (plan.weights + LANES)
    stored = isinstance(memory, Tensor)
    if memory is None:
        memory = table.new_empty(images, slots) if again and images * slots <= STORED else True
    where = memory.data_ptr() if isinstance(memory, Tensor) else 0
    columns = _packed_columns(width)
    packed_size, packed_images = height * columns * (q_width + v_width), workers if whole else images
    scratch_size = LANES * (4 + 2 * q_width + 2 * v_width) + 2 * plan.weights
    space = numba_threads.scratch(packed_images * packed_size + workers * scratch_size)
    packed = space.data_ptr()
    numbers = [
        *(images * chunks, heads, height, width, q_width, v_width, *plan.numbers),
        *(_factors(scale).data_ptr(), table.data_ptr(), packed, 4 * packed_size, columns),
        *(packed + 4 * packed_images * packed_size, 4 * scratch_size, 4 * plan.weights),
        *chain.from_iterable(places),
    ]
    for phase in (0,) if whole else (1, 2):
        numba_threads.run(_kernel(in_pairs), workers, [*numbers, phase, chunks, where, 4 * slots, int(stored)])
    return memory


def multiplies_pairs(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel that multiplies pairs of bfloat16 runs: it reads queries and keys in blocks of eight pairs."""
    if not q.dtype == k.dtype == v.dtype == torch.bfloat16 or q.shape[-1] < 2 * LANES:
        return False
    return _has_pair_products()


@lru_cache(maxsize=1)
def _has_pair_products() -> bool:
    from a2mamba.ops.numba_vectors import has_pair_products

    return has_pair_products()


@lru_cache(maxsize=2)
def _kernel(in_pairs: bool) -> int:
    if in_pairs:
        from a2mamba.ops.neighborhood import numba_kernels_bfloat16

        return numba_kernels_bfloat16.KERNEL
    from a2mamba.ops.neighborhood import numba_kernels

    return numba_kernels.KERNEL


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
    half = grad.dtype == q.dtype == k.dtype == v.dtype == torch.bfloat16
    dtype = torch.bfloat16 if half else torch.float32
    maps = tuple(empty_heads(each, dtype) for each in (q, k, v))
    batch, heads, height, _, v_width = v.shape
    table = (2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1)
    grad_bias = maps[0].new_zeros(heads, *table, dtype=torch.float32)
    if maps[2].numel():
        from a2mamba.ops.neighborhood import numba_kernels_backward

        images = batch * heads
        workers = min(numba_threads.threads(), images)
        call = _Call(q, k, v, bias, kernel_size, dilation, scale, dtype)
        q_width, entries = q.shape[-1], table[0] * table[1]
        width = q_width + v_width
        packed = grad_bias.new_empty(workers, height, call.columns, 2 * width)
        tile = LANES * (3 + 2 * q_width + call.plan.masks.shape[1] + entries) + 4 * call.plan.weights
        # Of two rows of queries: they and their gradients, and all weights and theirs.
        pair_of_rows = call.columns * (2 * width + 4 * call.plan.window * table[1])
        scratch = grad_bias.new_empty(workers, tile + pair_of_rows)
        tables = grad_bias.new_empty(batch, heads, *table)
        others, last = (rows(grad, dtype), *maps), (tables.data_ptr(), int(half))
        call.run(numba_kernels_backward.KERNEL, workers, images, packed, scratch, others, last)
        # A running sum adds in order; how a plain one is cut may depend on the number of threads.
        grad_bias = tables.cumsum(0)[-1].clone()
    bias_dtype = torch.promote_types(q.dtype, v.dtype) if bias is None else bias.dtype
    grad_q, grad_k, grad_v = (cast(x, like.dtype) for x, like in zip(maps, (q, k, v), strict=True))
    return grad_q, grad_k, grad_v, grad_bias.to(bias_dtype)


class _Call:
    """What the backward kernel is told of the forward."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        kernel_size: tuple[int, int],
        dilation: tuple[int, int],
        scale: float,
        dtype: torch.dtype,
    ) -> None:
        _, heads, height, width, v_width = v.shape
        self.inputs = rows(q, dtype), rows(k, dtype), rows(v, dtype)
        self.bias = bias_table(bias, v, kernel_size)
        self.plan = plan = make_plan(height, width, kernel_size, dilation)
        self.columns = _packed_columns(width)
        self.factors = _factors(scale)
        pointers = self.factors.data_ptr(), self.bias.data_ptr()
        self.numbers = (heads, height, width, q.shape[4], v_width, *plan.numbers, *pointers)

    def run(
        self,
        kernel: int,
        workers: int,
        items: int,
        packed: Tensor,
        scratch: Tensor,
        maps: tuple[Tensor, ...],
        others: tuple[int, ...],
    ) -> None:
        """Call a kernel that takes these ``maps`` and ``others`` after the inputs, with memory for each worker."""
        numbers = [
            *(items, *self.numbers),
            *(packed.data_ptr(), 4 * packed.stride(0), self.columns),
            *(scratch.data_ptr(), 4 * scratch.stride(0), 4 * self.plan.weights),
        ]
        for x in (*self.inputs, *maps):
            numbers += place_of_heads(x)
        numbers += others
        numba_threads.run(kernel, workers, numbers)


@kept(maxsize=64)
def _factors(scale: float) -> Tensor:
    """Return the two vectors that kernels multiply by."""
    return torch.tensor([1.0] * LANES + [scale] * LANES, dtype=torch.float32, device="cpu")


def bias_table(bias: Tensor | None, v: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    """Return the table of biases as kernels read it; zeros where there is none."""
    if bias is None:
        return v.new_zeros(v.shape[1], 2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1, dtype=torch.float32)
    return cast(bias, torch.float32).contiguous()


def _packed_columns(width: int) -> int:
    """Return the columns of a packed row: whole tiles and a margin on both sides."""
    return (width + LANES - 1) // LANES * LANES + 2 * LANES


def rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``x`` in ``dtype``, the channels of a position side by side; without a copy where it is so already."""
    x = cast(x, dtype)
    return x if x.stride()[-1] == 1 else x.contiguous()
