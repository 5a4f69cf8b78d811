"""Keeping autocast out of places that decide their own precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which autocast is off on the device of ``x``; devices that have none, as meta, are fine."""
    return torch.autocast(x.device.type, enabled=False) if _autocast(x) else nullcontext()


def in_half_precision(x: Tensor) -> bool:
    """Whether a convolution of ``x`` runs in 16 bits, for its dtype or for autocast."""
    return x.itemsize < 4 or _autocast(x)


def convolution_dtype(x: Tensor, weight: Tensor, bias: Tensor) -> torch.dtype | None:
    """Return the dtype that a convolution runs in: that of autocast, which casts all but float64, or the tensors' own.

    None where the tensors have no dtype in common, which PyTorch's operation refuses.
    """
    dtypes = {x.dtype, weight.dtype, bias.dtype}
    if _autocast(x) and torch.float64 not in dtypes:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype if len(dtypes) == 1 else None


def _autocast(x: Tensor) -> bool:
    """Whether autocast is on where ``x`` is."""
    # torch.amp.is_autocast_available would say of which devices this can be asked, but torch 2.11 cannot trace it.
    if x.is_cpu:
        return torch.is_autocast_enabled("cpu")
    device = x.device.type
    return device != "meta" and torch.is_autocast_enabled(device)
