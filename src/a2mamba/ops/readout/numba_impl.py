"""Readout and gated norm on CPUs through Numba: memory and the calls. The kernels are ``numba_kernels.py``.

Numba is imported, and the kernels compiled or read from Numba's cache on disk, at the first run. There is no gradient
here: training runs the layers as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from a2mamba.ops import numba_threads
from a2mamba.ops.numba_arguments import cast, norm_constants

RUN = 64
"""Positions that a thread takes at a time."""


def read_out(
    states: Sequence[Tensor], weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> Tensor:
    """Return the readout; arguments as in ``reference.read_out``, two halves of states."""
    from a2mamba.ops.readout import numba_kernels

    heads, width = states[0].shape[1], states[0].shape[4]
    out = _empty(u, torch.float32)
    dtype = torch.bfloat16 if all(x.dtype == torch.bfloat16 for x in (*states, u)) else torch.float32
    halves = [_rows(half.permute(0, 2, 3, 1, 4), dtype) for half in states]
    weight, bias, skip, readout = (cast(x, torch.float32).contiguous() for x in (weight, bias, skip, readout))
    numbers = [
        *(heads, width, weight.data_ptr(), bias.data_ptr(), skip.data_ptr()),
        *(number for half in halves for number in (half.data_ptr(), _step(half))),
    ]
    u, rows = _rows(u.permute(0, 2, 3, 1), dtype), _rows(out, out.dtype)
    numbers += [u.data_ptr(), _step(u), readout.data_ptr(), 4, rows.data_ptr(), _step(rows), u.element_size()]
    _run(numba_kernels.READ_OUT, out, numbers)
    return out.permute(0, 3, 1, 2)


def gated_norm(
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    gate_norm: nn.Module,
    norm: nn.LayerNorm,
    out_norm: nn.LayerNorm,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the gated norm; arguments as in ``operator.gated_norm``."""
    from a2mamba.ops.readout import numba_kernels

    dtype = out_norm.weight.dtype if dtype is None else dtype
    channels = x.shape[1]
    half = added.dtype == gate.dtype == dtype == torch.bfloat16
    map_dtype = torch.bfloat16 if half else torch.float32
    out = _empty(x, map_dtype)
    vectors = (norm.weight, norm.bias, out_norm.weight, out_norm.bias, *_gate_affine(gate_norm, norm.weight))
    affine = torch.cat([cast(each, torch.float32) for each in vectors])
    constants = norm_constants(channels, norm.eps)
    between = affine.new_empty(_workers(out), numba_kernels.TOGETHER * channels)
    dtypes = (torch.float32, map_dtype, map_dtype)
    maps = [_rows(each.permute(0, 2, 3, 1), kind) for each, kind in zip((x, added, gate), dtypes, strict=True)]
    numbers = [channels, affine.data_ptr(), constants.data_ptr()]
    for each in (*maps, _rows(out, out.dtype)):
        numbers += [each.data_ptr(), _step(each)]
    numbers += [int(half), between.data_ptr(), 4 * between.stride(0)]
    _run(numba_kernels.GATED_NORM, out, numbers)
    return cast(out, dtype).permute(0, 3, 1, 2)


def _gate_affine(norm: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias, by channel, of a norm whose statistics are constant, or of nn.Identity."""
    if not isinstance(norm, _BatchNorm):
        return torch.ones_like(like), torch.zeros_like(like)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight = cast(norm.weight, torch.float32) * torch.rsqrt(cast(norm.running_var, torch.float32) + norm.eps)
    return weight, norm.bias - norm.running_mean * weight


def _empty(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty (B, H, W, C) for a map (B, C, H, W)."""
    batch, channels, height, width = like.shape
    return like.new_empty(batch, height, width, channels, dtype=dtype)


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, H, W, ...) as (B * H * W, channels) in ``dtype``, channels side by side; a view where it is so."""
    # Not by its strides: those of axes with one entry may be anything.
    x = cast(x, dtype).flatten(0, 2)
    x = x if x.dim() == 2 else x.flatten(1)
    return x if x.stride(1) == 1 else x.contiguous()


def _step(x: Tensor) -> int:
    """Return the bytes between neighboring positions."""
    return x.element_size() * x.stride(0)


def _workers(out: Tensor) -> int:
    positions = out.shape[0] * out.shape[1] * out.shape[2]
    return min(numba_threads.threads(), -(-positions // RUN))


def _run(kernel: int, out: Tensor, numbers: list[int]) -> None:
    positions = out.shape[0] * out.shape[1] * out.shape[2]
    if not out.numel():
        return
    items = -(-positions // RUN)
    numba_threads.run(kernel, _workers(out), [items, positions, RUN, *numbers])
