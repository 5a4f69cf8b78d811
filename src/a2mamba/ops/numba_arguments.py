"""What kernels are told of tensors, with as few calls of PyTorch as can be: small maps wait for those, not for kernels.

A call that does nothing takes a microsecond in a loop and several in a network, and a forward pass has a thousand.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``x`` in ``dtype``; to ask first is ten times as fast as a ``to`` that has nothing to do."""
    return x if x.dtype == dtype else x.to(dtype)


def channels_innermost(x: Tensor) -> Tensor:
    """Return (B, C, H, W) as (B, H, W, C), channels side by side; without a copy where they are so already."""
    x = x.permute(0, 2, 3, 1)
    return x if x.stride(-1) == 1 else x.contiguous()


def addresses(x: Tensor, axes: int) -> list[int]:
    """Return the address of ``x`` and the steps of its first ``axes`` axes, in bytes."""
    size = x.element_size()
    return [x.data_ptr(), *[size * step for step in x.stride()[:axes]]]


@lru_cache(maxsize=64)
def norm_constants(channels: int, eps: float) -> Tensor:
    """Return what a norm multiplies sums by, and what it adds to variances."""
    return torch.tensor([1 / channels, eps], dtype=torch.float32, device="cpu")
