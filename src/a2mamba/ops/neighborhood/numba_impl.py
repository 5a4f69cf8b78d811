"""Neighborhood attention on CPUs through Numba: tables, memory, the calls of the kernels in ``numba_kernels*.py``.

Numba is imported, and a kernel compiled or read from Numba's cache on disk, at its first run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES, numba_missing, unfit
from a2mamba.ops.neighborhood.reference import effective_window
from a2mamba.ops.numba_arguments import addresses, cast

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
    steps: tuple[int, int]  # effective dilations
    strips: Tensor  # (strips, 5) int64: row, second row or -1, place of the first in its class, first keys of both
    tiles: Tensor  # (tiles, 5) int64: first column; of its queries first offset, offsets; of its keys the same
    masks: Tensor  # (tiles, most offsets, 8): 0 where an offset lies in a query's window, otherwise -inf


def _windows(length: int, kernel_size: int, dilation: int) -> tuple[int, int, Tensor, Tensor]:
    """Return window, dilation, and for every position its place in its class and the place of its first key."""
    window, step = effective_window(length, kernel_size, dilation)
    position = torch.arange(length, device="cpu")
    place, size = position // step, (length - position % step + step - 1) // step
    return window, step, place, torch.minimum((place - (kernel_size - 1) // 2).clamp(min=0), size - window)


@lru_cache(maxsize=64)
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
    return Plan(window, (step, step_w), strip_table, tile_table, masks)


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
        return _empty(v).to(v.dtype), True
    batch, heads, height, _, v_width = v.shape
    q_width = q.shape[-1]
    images, threads = batch * heads, numba_threads.threads()
    # A thread packs and attends to whole images, which stay in its cache, where there are enough of them.
    chunks = numba_threads.chunks_per_image(images, height)
    whole = chunks == 1
    workers = min(threads, images * chunks)
    in_pairs = _multiplies_pairs(q, k, v)
    call = _Call(q, k, v, bias, kernel_size, dilation, scale, dtype=torch.bfloat16 if in_pairs else torch.float32)
    out = _empty(v, call.dtype)
    # Of every tile of two rows, weights and what they are to be divided by.
    slots = len(call.plan.strips) * len(call.plan.tiles) * 2 * (call.weights + LANES)
    stored = isinstance(memory, Tensor)
    if memory is None:
        memory = call.new_empty(images, slots) if again and images * slots <= STORED else True
    where = memory.data_ptr() if isinstance(memory, Tensor) else 0
    packed = call.new_empty((workers if whole else images), height, call.columns, q_width + v_width)
    scratch = call.new_empty(workers, LANES * (4 + 2 * q_width + 2 * v_width) + 2 * call.weights)
    kernel = _kernel(in_pairs)
    for phase in (0,) if whole else (1, 2):
        others = phase, chunks, where, 4 * slots, int(stored)
        call.run(kernel, workers, images * chunks, packed, scratch, (out,), others)
    return cast(out, v.dtype), memory


def _multiplies_pairs(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernel that multiplies pairs of bfloat16 runs: it reads queries and keys in blocks of eight pairs."""
    if not q.dtype == k.dtype == v.dtype == torch.bfloat16 or q.shape[-1] < 2 * LANES:
        return False
    from a2mamba.ops.numba_vectors import has_pair_products

    return has_pair_products()


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
    maps = _empty(q), _empty(k), _empty(v)
    batch, heads, height, _, v_width = v.shape
    table = (2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1)
    grad_bias = maps[0].new_zeros(heads, *table)
    if maps[2].numel():
        from a2mamba.ops.neighborhood import numba_kernels_backward

        images = batch * heads
        workers = min(numba_threads.threads(), images)
        call = _Call(q, k, v, bias, kernel_size, dilation, scale)
        q_width, entries = q.shape[-1], table[0] * table[1]
        width = q_width + v_width
        packed = grad_bias.new_empty(workers, height, call.columns, 2 * width)
        tile = LANES * (3 + 2 * q_width + call.plan.masks.shape[1] + entries) + 4 * call.weights
        # Of two rows of queries: they and their gradients, and all weights and theirs.
        rows = call.columns * (2 * width + 4 * call.plan.window * table[1])
        scratch = grad_bias.new_empty(workers, tile + rows)
        tables = grad_bias.new_empty(batch, heads, *table)
        others = _rows(grad), *maps
        call.run(numba_kernels_backward.KERNEL, workers, images, packed, scratch, others, (tables.data_ptr(),))
        # A running sum adds in order; how a plain one is cut may depend on the number of threads.
        grad_bias = tables.cumsum(0)[-1].clone()
    bias_dtype = torch.promote_types(q.dtype, v.dtype) if bias is None else bias.dtype
    grad_q, grad_k, grad_v = (x.to(like.dtype) for x, like in zip(maps, (q, k, v), strict=True))
    return grad_q, grad_k, grad_v, grad_bias.to(bias_dtype)


class _Call:
    """What both kernels are told alike."""

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        kernel_size: tuple[int, int],
        dilation: tuple[int, int],
        scale: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _, heads, height, width, v_width = v.shape
        self.dtype = dtype
        self.inputs = tuple(_rows(x, dtype) for x in (q, k, v))
        if bias is None:
            self.bias = v.new_zeros(heads, 2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1, dtype=torch.float32)
        else:
            self.bias = cast(bias, torch.float32).contiguous()
        self.plan = plan = make_plan(height, width, kernel_size, dilation)
        self.columns = (width + LANES - 1) // LANES * LANES + 2 * LANES
        self.weights = (plan.window * plan.masks.shape[1] + 4) * LANES
        self.factors = _factors(scale)
        self.numbers = [
            *(heads, height, width, q.shape[-1], v_width),
            *(*kernel_size, plan.window, *plan.steps),
            *(plan.strips.data_ptr(), len(plan.strips), plan.tiles.data_ptr(), len(plan.tiles)),
            *(plan.masks.data_ptr(), plan.masks.shape[1], self.factors.data_ptr(), self.bias.data_ptr()),
        ]

    def new_empty(self, *size: int) -> Tensor:
        """Return memory for float32 numbers."""
        return self.bias.new_empty(*size)

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
            *(scratch.data_ptr(), 4 * scratch.stride(0), 4 * self.weights),
        ]
        for x in (*self.inputs, *maps):
            numbers += addresses(x, 4)
        numbers += others
        numba_threads.run(kernel, workers, numbers)


@lru_cache(maxsize=64)
def _factors(scale: float) -> Tensor:
    """Return the two vectors that kernels multiply by."""
    return torch.tensor([1.0] * LANES + [scale] * LANES, dtype=torch.float32, device="cpu")


def _empty(like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return an empty map (B, G, H, W, width) whose memory is (B, H, W, G, width)."""
    batch, heads, height, width, channels = like.shape
    return like.new_empty(batch, height, width, heads, channels, dtype=dtype).permute(0, 3, 1, 2, 4)


def _rows(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return ``x`` in ``dtype``, the channels of a position side by side; without a copy where it is so already."""
    x = cast(x, dtype)
    return x if x.stride(-1) == 1 else x.contiguous()
