"""What the Triton operators on maps (B, C, H, W) ask of them: channels side by side, positions evenly spaced."""

from __future__ import annotations

import torch
from torch import Tensor

from a2mamba.ops.dispatch import unwatched


def position_stride(x: Tensor) -> int | None:
    """Return how far apart neighboring positions of a map (B, C, H, W) are in memory.

    None where channels are not side by side, or where rows or images do not follow one another without a gap.
    """
    batch, channels, height, width = x.shape
    of_batch, of_channel, of_row, of_column = x.stride()
    axes = [(n, s) for n, s in ((width, of_column), (height, of_row), (batch, of_batch)) if n > 1]
    if channels > 1 and of_channel != 1:
        return None
    apart = axes[0][1] if axes else channels
    expected = apart
    for size, stride in axes:
        if stride != expected:
            return None
        expected *= size
    return apart


def empty_map(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty map of the shape of ``like`` (B, C, H, W), channels innermost."""
    return torch.empty(like.shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def unfit_maps(**maps: Tensor) -> str | None:
    """Return which of the named maps (B, C, H, W) does not lie in memory as the kernels read it, or None."""
    for name, x in maps.items():
        if position_stride(x) is None:
            return f"channels of {name} must be side by side and its positions evenly spaced, got strides {x.stride()}"
    return None


def watched(x: Tensor) -> str | None:
    """Return why a kernel without a gradient may not run an operation on ``x``, or None."""
    return None if unwatched(x) else "a gradient, a graph or something that watches needs the operations one by one"
