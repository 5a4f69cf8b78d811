"""The selective scan on CPUs through Numba: memory and the call. The kernel is ``numba_kernels.py``.

Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES, numba_missing, unfit

ITEM_CHANNELS = 64
"""Most channels of an item of work: few, so that one image occupies several threads, but whole lines of memory."""


def why_not(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
) -> str | None:
    """Return why the kernel cannot run the arguments of ``reference.selective_scan_state``, or None."""
    objection = numba_missing(u) or unfit(u=u, delta=delta, A=A, B=B, delta_bias=delta_bias)
    if objection is not None:
        return objection
    channels = u.shape[1] // B.shape[1]
    if channels < LANES:
        return f"a group of channels must have at least {LANES}, got {channels}"
    return None


def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """Return the states (B, C, L), stored with C innermost; arguments as in ``reference.selective_scan_state``."""
    batch, channels, length = u.shape
    out = u.new_empty(batch, length, channels, dtype=torch.float32)
    if not out.numel():
        return out.transpose(1, 2)
    from a2mamba.ops.selective_scan import numba_kernels

    dtype = torch.bfloat16 if u.dtype == delta.dtype == torch.bfloat16 else torch.float32
    u, delta = _tokens(u, dtype), _tokens(delta, dtype)
    A, B = A.detach().to(torch.float32).contiguous(), B.detach().to(torch.float32).contiguous()
    bias = out.new_zeros(channels) if delta_bias is None else delta_bias.detach().to(torch.float32).contiguous()
    groups = B.shape[1]
    group_channels = channels // groups
    item_channels = min(ITEM_CHANNELS, (group_channels + LANES - 1) // LANES * LANES)
    items = batch * groups * ((group_channels + item_channels - 1) // item_channels)
    workers = min(numba_threads.threads(), items)
    states = out.new_empty(workers, item_channels)
    numba_threads.run(
        numba_kernels.KERNEL,
        workers,
        [
            *(items, int(delta_softplus), groups, group_channels, item_channels, length),
            *_addresses(u),
            *_addresses(delta),
            *_addresses(out),
            *(B.data_ptr(), A.data_ptr(), bias.data_ptr(), states.data_ptr(), 4 * item_channels, u.element_size()),
        ],
    )
    return out.transpose(1, 2)


def _tokens(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, C, L) as (B, L, C) in ``dtype``, channels side by side; without a copy where they are so already."""
    x = x.detach().to(dtype).transpose(1, 2)
    return x if x.stride(-1) == 1 else x.contiguous()


def _addresses(x: Tensor) -> list[int]:
    """Return address and steps in bytes of (B, L, ...)."""
    return [x.data_ptr(), x.element_size() * x.stride(0), x.element_size() * x.stride(1)]
