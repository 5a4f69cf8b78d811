"""Readout and gated norm on CPUs through Numba: memory and the calls. The kernels are ``numba_kernels.py``.

Numba is imported, and the kernels compiled or read from Numba's cache on disk, at the first run. There is no gradient
here: training runs the layers as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from a2mamba.ops import numba_threads
from a2mamba.ops.numba_arguments import (
    affine_of,
    cast,
    empty_map,
    identity_affine,
    norm_constants,
    numbers_of,
    positions,
    positions_of_heads,
)

RUN = 64
"""Positions that a thread takes at a time."""


def read_out(
    states: Sequence[Tensor], weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> Tensor:
    """Return the readout; arguments as in ``reference.read_out``, two halves of states."""
    first, second = states
    heads, width = first.shape[1], first.shape[4]
    out = empty_map(u, torch.float32)
    if not out.numel():
        return out
    dtype = torch.bfloat16 if first.dtype == second.dtype == u.dtype == torch.bfloat16 else torch.float32
    (first, first_step), (second, second_step) = positions_of_heads(first, dtype), positions_of_heads(second, dtype)
    u, u_step = positions(u, dtype)
    weight, bias, skip, readout = numbers_of(weight, bias, skip, readout)
    items, count = _items(out)
    numbers = [
        *(items, count, RUN, heads, width, weight.data_ptr(), bias.data_ptr(), skip.data_ptr()),
        *(first.data_ptr(), first_step, second.data_ptr(), second_step),
        *(u.data_ptr(), u_step, readout.data_ptr(), 4, out.data_ptr(), 8 * heads * width, u.itemsize),
    ]
    numba_threads.run(_kernels().read_out, min(numba_threads.threads(), items), numbers)
    return out


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
    vectors = parameters(gate_norm, norm, out_norm)
    dtype = vectors[2].dtype if dtype is None else dtype
    channels = x.shape[1]
    half = added.dtype == gate.dtype == dtype == torch.bfloat16
    map_dtype = torch.bfloat16 if half else torch.float32
    out = empty_map(x, map_dtype)
    if not out.numel():
        return cast(out, dtype)
    vectors = numbers_of(*vectors)
    statistics = [0, 0, 0]
    if len(vectors) == 4:
        vectors += identity_affine(channels)
    else:
        assert isinstance(gate_norm, _BatchNorm)
        statistics = [vectors[6].data_ptr(), vectors[7].data_ptr(), norm_constants(channels, gate_norm.eps).data_ptr()]
    constants = norm_constants(channels, norm.eps)
    items, count = _items(out)
    workers = min(numba_threads.threads(), items)
    kernels = _kernels()
    # The vectors, and positions between the two norms.
    scratch_size = (6 + kernels.together) * channels
    scratch = numba_threads.scratch(workers * scratch_size)
    x, x_step = positions(x, torch.float32)
    added, added_step = positions(added, map_dtype)
    gate, gate_step = positions(gate, map_dtype)
    numbers = [
        *(items, count, RUN, channels, constants.data_ptr(), x.data_ptr(), x_step, added.data_ptr(), added_step),
        *(gate.data_ptr(), gate_step, out.data_ptr(), out.itemsize * channels),
        *(int(half), scratch.data_ptr(), 4 * scratch_size),
        *map(Tensor.data_ptr, vectors[:6]),
        *statistics,
    ]
    numba_threads.run(kernels.gated_norm, workers, numbers)
    return cast(out, dtype)


def parameters(gate_norm: nn.Module, norm: nn.Module, out_norm: nn.Module) -> list[Any]:
    """Return weight and bias of both norms, then weight, bias, mean and variance of the gate's, none of nn.Identity.

    None for what a module has not as a parameter or a buffer of its own.
    """
    affines = [*affine_of(norm), *affine_of(out_norm)]
    if isinstance(gate_norm, nn.Identity):
        return affines
    buffers = gate_norm._buffers
    return [*affines, *affine_of(gate_norm), buffers.get("running_mean"), buffers.get("running_var")]


def _items(out: Tensor) -> tuple[int, int]:
    """Return how many runs of positions a map (B, C, H, W) has, and how many positions."""
    batch, _, height, width = out.shape
    count = batch * height * width
    return -(-count // RUN), count


class _Kernels(NamedTuple):
    read_out: int
    gated_norm: int
    together: int


@lru_cache(maxsize=1)
def _kernels() -> _Kernels:
    from a2mamba.ops.readout import numba_kernels

    return _Kernels(numba_kernels.READ_OUT, numba_kernels.GATED_NORM, numba_kernels.TOGETHER)
