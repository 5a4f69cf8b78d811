"""Readout and gated norm on CPUs through Numba: memory and the calls. The kernels are ``numba_kernels.py``.

Numba is imported, and the kernels compiled or read from Numba's cache on disk, at the first run. There is no gradient
here: training runs the layers as they are written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from a2mamba.ops import numba_threads

RUN = 64
"""Positions that a thread takes at a time."""


def read_out(
    states: Sequence[Tensor], weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> Tensor:
    """Return the readout; arguments as in ``reference.read_out``, two halves of states."""
    from a2mamba.ops.readout import numba_kernels

    heads, width = states[0].shape[1], states[0].shape[4]
    out = _empty(u)
    halves = [_rows(half.permute(0, 2, 3, 1, 4)) for half in states]
    weight, bias, skip = weight.contiguous(), bias.contiguous(), skip.contiguous()
    readout = readout.contiguous()
    numbers = [
        *(heads, 4 * width, weight.data_ptr(), bias.data_ptr(), skip.data_ptr()),
        *(number for half in halves for number in (half.data_ptr(), _step(half))),
    ]
    u = _rows(u.permute(0, 2, 3, 1))
    rows = _rows(out)
    numbers += [u.data_ptr(), _step(u), readout.data_ptr(), 4, rows.data_ptr(), _step(rows)]
    _run(numba_kernels.READ_OUT, out, numbers)
    return out.permute(0, 3, 1, 2)


def gated_norm(x: Tensor, added: Tensor, gate: Tensor, norm: nn.LayerNorm, out_norm: nn.LayerNorm) -> Tensor:
    """Return the gated norm; arguments as in ``reference.gated_norm``."""
    from a2mamba.ops.readout import numba_kernels

    out = _empty(x)
    channels = x.shape[1]
    affine = torch.cat((norm.weight, norm.bias, out_norm.weight, out_norm.bias))
    constants = torch.tensor([1 / channels, norm.eps], dtype=torch.float32, device="cpu")
    maps = [_rows(each.permute(0, 2, 3, 1)) for each in (x, added, gate)]
    numbers = [channels, affine.data_ptr(), constants.data_ptr()]
    for each in (*maps, _rows(out)):
        numbers += [each.data_ptr(), _step(each)]
    _run(numba_kernels.GATED_NORM, out, numbers)
    return out.permute(0, 3, 1, 2)


def _empty(like: Tensor) -> Tensor:
    """Return an empty (B, H, W, C) for a map (B, C, H, W)."""
    batch, channels, height, width = like.shape
    return like.new_empty(batch, height, width, channels)


def _rows(x: Tensor) -> Tensor:
    """Return (B, H, W, ...) as (B * H * W, channels), channels side by side; a view where they are so already."""
    # Not by its strides: those of axes with one entry may be anything.
    x = x.flatten(0, 2).flatten(1)
    return x if x.stride(1) == 1 else x.contiguous()


def _step(x: Tensor) -> int:
    """Return the bytes between neighboring positions."""
    return 4 * x.stride(0)


def _run(kernel: int, out: Tensor, numbers: list[int]) -> None:
    positions = out.shape[0] * out.shape[1] * out.shape[2]
    if not out.numel():
        return
    items = -(-positions // RUN)
    numba_threads.run(kernel, min(numba_threads.threads(), items), [items, positions, RUN, *numbers])
