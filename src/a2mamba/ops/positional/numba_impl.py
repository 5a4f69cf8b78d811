"""The positional convolution with its norm on CPUs through Numba: memory and the call.

The kernel is ``numba_kernels.py``. Numba is imported, and the kernel compiled or read from Numba's cache on disk, at
the first run. There is no gradient here: training calls the modules.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from a2mamba.ops import numba_threads
from a2mamba.ops.numba_arguments import (
    affine_of,
    cast,
    channels_innermost,
    empty_map,
    identity_affine,
    norm_constants,
    numbers_of,
    place,
)
from a2mamba.ops.precision import in_half_precision


def parameters(skip: nn.Module, pos: nn.Conv2d, norm: nn.LayerNorm) -> list[Any]:
    """Return what the kernel reads of the modules: two of the convolution, two of the norm, two or none of ``skip``.

    None for what a module has not as a parameter of its own.
    """
    affine = () if isinstance(skip, nn.Identity) else affine_of(skip)
    return [*affine_of(pos), *affine_of(norm), *affine]


def positional_norm(
    x: Tensor, branch: Tensor | None, skip: nn.Module, pos: nn.Conv2d, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    """Return two maps (B, C, H, W), channels innermost; arguments as in ``operator.positional_norm``."""
    batch, channels, height, columns = x.shape
    normal_dtype = torch.bfloat16 if in_half_precision(x) else x.dtype
    out, normal = empty_map(x, x.dtype), empty_map(x, normal_dtype)
    if not out.numel():
        return out, normal
    # All float32; float32 beside what convolutions make under autocast; or all bfloat16.
    kind = 2 if x.dtype == torch.bfloat16 else int(normal_dtype == torch.bfloat16)
    vectors = numbers_of(*parameters(skip, pos, norm))
    if len(vectors) == 4:
        vectors += identity_affine(channels)
    constants = norm_constants(channels, norm.eps)
    chunks, workers = numba_threads.shares(batch, height)
    # The tables, three rows that the convolution sees, and the one that it makes.
    scratch_size = (14 + 3 * (columns + 2) + columns) * channels
    scratch = numba_threads.scratch(workers * scratch_size)
    x = channels_innermost(x)
    branch = None if branch is None else channels_innermost(cast(branch, normal_dtype))
    numbers = [
        *(batch * chunks, chunks, height, columns, channels, kind),
        *map(Tensor.data_ptr, vectors),
        *(constants.data_ptr(), scratch.data_ptr(), 4 * scratch_size),
        *place(x),
        *((0, 0, 0, 0) if branch is None else place(branch)),
        *(*place(out), *place(normal)),
    ]
    numba_threads.run(_kernel(), workers, numbers)
    return out, normal


@lru_cache(maxsize=1)
def _kernel() -> int:
    from a2mamba.ops.positional import numba_kernels

    return numba_kernels.KERNEL
