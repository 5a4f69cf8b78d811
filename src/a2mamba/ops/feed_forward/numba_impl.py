"""GELU with a depthwise convolution on CPUs through Numba: memory and the call. The kernel is ``numba_kernels.py``.

Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first run. There is no gradient
here: training runs the layers as they are written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from a2mamba.ops import numba_threads
from a2mamba.ops.feed_forward.torch_impl import with_residual
from a2mamba.ops.numba_arguments import addresses, cast


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W), channels innermost; arguments as in ``reference.gelu_depthwise``."""
    return _run(x, weight, bias, with_gelu=True)


def residual_depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (B, C, H, W), channels innermost; arguments as in ``reference.residual_depthwise``."""
    return _run(x, weight, bias, with_gelu=False)


def _run(x: Tensor, weight: Tensor, bias: Tensor, with_gelu: bool) -> Tensor:
    from a2mamba.ops.feed_forward import numba_kernels

    batch, channels, height, columns = x.shape
    out = x.new_empty(batch, height, columns, channels)
    if not out.numel():
        return out.permute(0, 3, 1, 2)
    x = x.permute(0, 2, 3, 1)
    if x.stride(-1) != 1:
        x = x.contiguous()
    weight, bias = cast(weight, torch.float32), cast(bias, torch.float32)
    taps = torch.cat((with_residual(weight).reshape(channels, 9).T, bias[None]))
    chunks = numba_threads.chunks_per_image(batch, height)
    workers = min(numba_threads.threads(), batch * chunks)
    rings = taps.new_empty(workers, 3 * (columns + 2) * channels)
    numbers = [batch * chunks, chunks, height, columns, channels]
    numbers += [taps.data_ptr(), rings.data_ptr(), 4 * rings.stride(0)]
    for each in (x, out):
        numbers += addresses(each, 3)
    numbers += [int(with_gelu), int(out.dtype == torch.bfloat16)]
    numba_threads.run(numba_kernels.KERNEL, workers, numbers)
    return out.permute(0, 3, 1, 2)
