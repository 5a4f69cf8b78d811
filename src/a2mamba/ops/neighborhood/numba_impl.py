"""Neighborhood attention on CPUs through Numba: tables, memory, the call. The kernel is ``numba_kernels.py``.

Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import numba_missing
from a2mamba.ops.neighborhood.reference import effective_window

LANES = 8
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def why_not(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> str | None:
    """Return why the kernel cannot run the arguments of ``reference.neighborhood_attention``, or None."""
    missing = numba_missing(q)
    if missing is not None:
        return missing
    for name, tensor in (("q", q), ("k", k), ("v", v), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            return f"{name} must be float16, bfloat16 or float32, got {tensor.dtype}"
        if tensor.device != q.device:
            return f"{name} is on {tensor.device} and q on {q.device}"
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
    tiles: Tensor  # (tiles, 3) int64: first column, first offset, offsets
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
    tiles = []
    for x in range(0, width, LANES):
        lowest, highest = int(first[x : x + LANES].min()), int(first[x : x + LANES].max())
        tiles.append([x, lowest, highest + window_w - lowest])
    most = max(count for _, _, count in tiles)
    masks = torch.zeros(len(tiles), most, LANES, dtype=torch.float32, device="cpu")
    for mask, (x, lowest, _) in zip(masks, tiles, strict=True):
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
    batch, heads, height, width, v_width = v.shape
    out = v.new_empty(batch, height, width, heads, v_width, dtype=torch.float32).permute(0, 3, 1, 2, 4)
    if not out.numel():
        return out.to(v.dtype)
    from a2mamba.ops.neighborhood import numba_kernels

    q, k, v_float = (_rows(x) for x in (q, k, v))
    q_width = q.shape[-1]
    plan = make_plan(height, width, kernel_size, dilation)
    if bias is None:
        table = out.new_zeros(heads, 2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1)
    else:
        table = bias.detach().to(torch.float32).contiguous()
    factors = out.new_tensor([1.0] * LANES + [scale] * LANES)

    images, threads = batch * heads, numba_threads.threads()
    # A thread packs and attends to whole images, which stay in its cache, where there are enough of them.
    whole = images % threads == 0 or images >= 4 * threads
    pieces = 1 if whole else min(height, 4 * threads)
    workers = min(threads, images * pieces)
    columns = (width + LANES - 1) // LANES * LANES + 2 * LANES
    packed_size = height * columns * (q_width + v_width)
    packed = out.new_empty((workers if whole else images) * packed_size)
    weights_size = (plan.window * plan.masks.shape[1] + 4) * LANES
    scratch_size = LANES * (3 + 2 * q_width + 2 * v_width) + 2 * weights_size
    scratch = out.new_empty(workers * scratch_size)

    for phase in (0,) if whole else (1, 2):
        counters = out.new_zeros(2, dtype=torch.int64)
        arguments = torch.tensor(
            [
                *(counters.data_ptr(), images * pieces, phase, pieces),
                *(heads, height, width, q_width, v_width),
                *_addresses(q),
                *_addresses(k),
                *_addresses(v_float),
                *_addresses(out),
                *(table.data_ptr(), *kernel_size, plan.window, *plan.steps),
                *(plan.strips.data_ptr(), len(plan.strips), plan.tiles.data_ptr(), len(plan.tiles)),
                *(plan.masks.data_ptr(), plan.masks.shape[1]),
                *(factors.data_ptr(), packed.data_ptr(), 4 * packed_size, columns),
                *(scratch.data_ptr(), 4 * scratch_size, 4 * weights_size),
            ],
            dtype=torch.int64,
            device="cpu",
        )
        numba_threads.call(numba_kernels.KERNEL, arguments.data_ptr(), workers)
    return out.to(v.dtype)


def _rows(x: Tensor) -> Tensor:
    """Return ``x`` in float32, the channels of a position side by side; without a copy where it is so already."""
    x = x.detach().to(torch.float32)
    return x if x.stride(-1) == 1 else x.contiguous()


def _addresses(x: Tensor) -> list[int]:
    """Return address and steps in bytes of (B, G, H, W, ...)."""
    return [x.data_ptr(), *(4 * step for step in x.stride()[:4])]
