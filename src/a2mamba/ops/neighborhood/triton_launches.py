"""What to launch for neighborhood attention on GPUs: tiles, compiler options, arguments of ``triton_kernels.py``.

A *launch* is (kernel, grid, keyword arguments). Building one needs shapes, strides and dtypes only, so the same
functions serve a run and the ahead-of-time compilation of ``benchmarks/triton_aot.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from a2mamba.ops.neighborhood import triton_kernels as kernels
from a2mamba.ops.neighborhood.tiles import Runs, Tiling, choose_tile, runs, tiling
from a2mamba.ops.triton_launch import Launch, registers

TILES = ((8, 8), (4, 16))
"""Shapes of query tiles. A tile of T x T queries computes (T + K - 1)^2 scores a query, K^2 of which count, so wide
tiles waste less inside a large map, and small ones less on the 11 or 12 positions of a dilated class. 64 rows are what
one Hopper matrix instruction of four warps takes; twice as many were slower on an H200 in every stage."""

ITEMS = 64
"""(tile, image) pairs whose bias gradients are summed before they are written, at most."""

BIAS_PROGRAMS = 2048
"""Programs that the bias gradient is cut into where there is work enough: several for each of 100 to 150 processors."""

ENTRIES = 1024
"""Entries of a matrix that a program computes."""

RUNS = 16
"""Shares of the bias gradient that a program adds at a time."""


def _align(x: Tensor) -> int:
    """Return how many elements may be read at once: the power of two, up to 16 bytes, that divides every offset."""
    if x.stride(-1) != 1:
        return 1
    vector = 16 // x.element_size()
    return math.gcd(vector, x.data_ptr() // x.element_size(), *x.stride()[:-1])


def _power(width: int) -> int:
    """Return the width to which heads are padded: a power of two, 16 at least, as tensor cores take them."""
    return max(16, triton.next_power_of_2(width))


def _precision(device: torch.device) -> str:
    """Return how float32 matrices are multiplied: to float32's accuracy everywhere."""
    if device.type == "cpu":
        return "interpreter"
    # NVIDIA's tensor cores reach it with three tf32 products for one; AMD's multiply float32 itself.
    return "ieee" if torch.version.hip else "tf32x3"


def _is_wide(q: Tensor, v: Tensor) -> tuple[bool, bool]:
    """Return whether heads are padded to 64 channels, and whether a product is of float32 matrices."""
    return max(q.shape[-1], v.shape[-1]) > 32, max(q.element_size(), v.element_size()) == 4


def _tiles(q: Tensor, v: Tensor) -> tuple[tuple[int, int], ...]:
    # A quarter of the rows a warp where three tf32 products of wide heads would not fit into the registers.
    return ((4, 8),) if all(_is_wide(q, v)) else TILES


def _block(q: Tensor, v: Tensor) -> int:
    """Return the columns of a score block: as many as leave registers for several programs on a processor."""
    # Compiled ahead of time (benchmarks/triton_aot.py), half-precision kernels of 64 columns take twice the registers
    # of 32, and float32's spill on sm_80 with 32.
    return 16 if _is_wide(q, v)[1] else 32


def map_tiling(
    q: Tensor, v: Tensor, kernel_size: Sequence[int], dilation: Sequence[int], *, of_keys: bool = False
) -> Tiling:
    """Return the tiles of the map of ``q``, of queries or ``of_keys``, for values like ``v``."""
    size, kernel, step = (q.shape[2], q.shape[3]), (kernel_size[0], kernel_size[1]), (dilation[0], dilation[1])
    block = _block(q, v)
    tile = choose_tile(_tiles(q, v), size, kernel, step, block)
    if of_keys and max(q.shape[-1], v.shape[-1]) > 32:
        block = 16  # four accumulators of 64 channels beside wider blocks do not fit on sm_80
    return tiling(size, kernel, step, tile, block, of_keys, q.device)


def empty_matrix(q: Tensor, found: Tiling) -> Tensor:
    """Return the matrices of all kinds, not yet computed."""
    # 11 bits of a bias are as many as float16 inputs have, and more than bfloat16's; reading it is half of the work.
    dtype = torch.float16 if q.element_size() == 2 else torch.float32
    return torch.empty(matrix_shape(q, found), dtype=dtype, device=q.device)


def matrix_shape(q: Tensor, found: Tiling) -> tuple[int, ...]:
    """Return (G, kinds, rows, columns)."""
    return q.shape[1], found.kinds, math.prod(found.shape), found.columns


def matrix_launch(
    matrix: Tensor, bias: Tensor | None, kernel_size: Sequence[int], found: Tiling, *, of_keys: bool
) -> Launch:
    """Launch that fills ``matrix`` of :func:`empty_matrix`; the bias is float32 and contiguous."""
    arguments: dict[str, Any] = {
        # Without a bias any pointer does: it is never read.
        "bias": matrix if bias is None else bias,
        **found.kind_tables,
        "matrix": matrix,
        **_regions(found),
        "K_H": kernel_size[0],
        "K_W": kernel_size[1],
        "BLOCK": ENTRIES,
        "HAS_BIAS": bias is not None,
        "OF_KEYS": of_keys,
        "num_warps": 4,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
    entries = math.prod(found.shape) * found.columns
    return kernels.attention_matrix_kernel, (math.ceil(entries / ENTRIES), found.kinds, len(matrix)), arguments


def _regions(found: Tiling) -> dict[str, Any]:
    """Return what the kernels that compute with windows need to know of tiles and regions."""
    return {
        "kinds_x": len(found.horizontal.counts),
        "extent_h": found.vertical.extent,
        "extent_w": found.horizontal.extent,
        "columns": found.columns,
        "window_h": found.vertical.window,
        "window_w": found.horizontal.window,
        "T_H": found.shape[0],
        "T_W": found.shape[1],
    }


def _common(q: Tensor, k: Tensor, v: Tensor, matrix: Tensor, scale: float, found: Tiling) -> dict[str, Any]:
    """Return the arguments that all kernels share but :func:`matrix_launch`'s."""
    _, heads, height, width, channels = q.shape
    tile_h, tile_w = found.shape
    arguments: dict[str, Any] = {
        "q": q,
        "k": k,
        "v": v,
        "matrix": matrix,
        **found.tables,
        "heads": heads,
        "height": height,
        "width": width,
        "step_h": found.vertical.step,
        "step_w": found.horizontal.step,
        "tiles_y": len(found.vertical.tiles),
        "tiles_x": len(found.horizontal.tiles),
        "kinds": found.kinds,
        "kinds_x": len(found.horizontal.counts),
        "extent_w": found.horizontal.extent,
        "columns": found.columns,
        "scale": float(scale),
        "D": channels,
        "D_PAD": _power(channels),
        "E": v.shape[-1],
        "E_PAD": _power(v.shape[-1]),
        "T_H": tile_h,
        "T_W": tile_w,
        "BLOCK": found.block,
        "PRECISION": _precision(q.device),
        # 16 rows a warp: the registers of a thread do not depend on the tile.
        "num_warps": max(4, tile_h * tile_w // 16),
        # Blocks are loaded while another is computed, two of half precision. AMD's compiler pays for it with twice the
        # registers.
        "num_stages": 1 if torch.version.hip else 2 if _is_wide(q, v)[1] else 3,
        "enable_fp_fusion": True,
    }
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        arguments.update(_layout(name, tensor))
    return arguments


def _layout(name: str, x: Tensor) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(zip((f"{name}_{axis}" for axis in "bghwd"), x.stride(), strict=True))
    return {**arguments, f"{name.upper()}_ALIGN": _align(x)}


def forward_launch(
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor,
    scale: float,
    found: Tiling,
    *,
    again: bool,
) -> Launch:
    """Launch that fills ``out``, and ``lse`` unless ``again``, which reads it."""
    arguments = _common(q, k, v, matrix, scale, found)
    arguments.update(out=out, lse=lse, AGAIN=again)
    return kernels.attention_kernel, (q.shape[0] * q.shape[1] * found.number,), arguments


def backward_q_launch(
    grad_q: Tensor,
    delta: Tensor,
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor,
    scale: float,
    found: Tiling,
) -> Launch:
    """Launch that fills ``delta`` and the gradient of q."""
    arguments = _common(q, k, v, matrix, scale, found)
    arguments.update(lse=lse, delta=delta, grad=grad, out=out, grad_q=grad_q, **_layout("g", grad))
    arguments["O_ALIGN"] = math.gcd(16 // out.element_size(), out.shape[-1])
    if min(arguments["Q_ALIGN"] * q.element_size(), arguments["V_ALIGN"] * v.element_size()) < 16:
        # Rows that are read in pieces take more addresses than the four programs a processor have registers for.
        arguments.update(registers(q, 168))
    return kernels.attention_backward_q_kernel, (q.shape[0] * q.shape[1] * found.number,), arguments


def backward_kv_launch(
    grads: tuple[Tensor, Tensor],
    delta: Tensor,
    grad: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor,
    scale: float,
    found: Tiling,
) -> Launch:
    """Launch that fills the gradients of k and v; matrix and tiles are of keys."""
    arguments = _common(q, k, v, matrix, scale, found)
    arguments.update(lse=lse, delta=delta, grad=grad, grad_k=grads[0], grad_v=grads[1], **_layout("g", grad))
    return kernels.attention_backward_kv_kernel, (q.shape[0] * q.shape[1] * found.number,), arguments


def bias_runs(q: Tensor, found: Tiling) -> Runs:
    """Return how the bias gradient is shared out."""
    batch, heads = q.shape[:2]
    programs = batch * found.number * heads * (found.columns // found.block)
    return runs(found, batch, max(1, min(ITEMS, programs // BIAS_PROGRAMS)))


def bias_launches(
    grad_bias: Tensor,
    delta: Tensor,
    grad: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    matrix: Tensor,
    kernel_size: Sequence[int],
    scale: float,
    found: Tiling,
) -> list[Launch]:
    """Launches that collect shares of the matrices' gradient ("partial"), and fill the bias table's with their sums."""
    batch, heads = q.shape[:2]
    shares = bias_runs(q, found)
    shape = len(shares.table), heads, math.prod(found.shape), found.columns
    partial = torch.empty(shape, dtype=torch.float32, device=q.device)
    collect = _common(q, k, v, matrix, scale, found)
    for one_tile in ("tiles_y", "tiles_x"):
        del collect[one_tile]
    collect.update(found.kind_tables, runs=shares.table, lse=lse, delta=delta, grad=grad, partial=partial, batch=batch)
    # What a second stage would hold in registers is needed for the collected scores.
    collect.update(_layout("g", grad), num_stages=1)
    spread: dict[str, Any] = {
        "partial": partial,
        **found.kind_tables,
        "first_runs": shares.first,
        "grad_bias": grad_bias,
        "heads": heads,
        "kinds": found.kinds,
        **_regions(found),
        "K_H": kernel_size[0],
        "K_W": kernel_size[1],
        "RUNS": RUNS,
        "num_warps": 4,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
    return [
        (kernels.attention_backward_matrix_kernel, (shape[0] * (found.columns // found.block), heads), collect),
        (kernels.attention_backward_bias_kernel, (math.prod(grad_bias.shape[1:]), heads), spread),
    ]
