"""The selective scan on CPUs through Numba: memory and the calls of the kernels in ``numba_kernels*.py``.

Numba is imported, and a kernel compiled or read from Numba's cache on disk, at its first run.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES, numba_missing, unfit
from a2mamba.ops.numba_arguments import cast, numbers_of, place_of_tokens
from a2mamba.ops.selective_scan import torch_impl

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
    out = torch.empty(batch, length, channels, dtype=torch.float32, device="cpu").transpose(1, 2)
    if not out.numel():
        return out
    call = _Call(u, delta, A, B, delta_bias, delta_softplus)
    workers = min(numba_threads.threads(), call.items)
    states = numba_threads.scratch(workers * call.item_channels)
    others = [*place_of_tokens(out), *call.parameters, states.data_ptr(), 4 * call.item_channels, call.u.itemsize]
    numba_threads.run(_kernel(), workers, [*call.numbers, *others])
    return out


@lru_cache(maxsize=1)
def _kernel() -> int:
    from a2mamba.ops.selective_scan import numba_kernels

    return numba_kernels.KERNEL


def backward(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, delta, A, B and delta_bias; arguments as in ``torch_impl.backward``."""
    if not u.numel():
        return torch_impl.backward(grad, states, u, delta, A, B, delta_bias, delta_softplus)
    from a2mamba.ops.selective_scan import numba_kernels_backward

    call = _Call(u, delta, A, B, delta_bias, delta_softplus)
    batch, channels, length = u.shape
    states, grad = _tokens(states, torch.float32), _tokens(grad, torch.float32)
    grad_u, grad_delta = (call.u.new_empty(batch, length, channels).transpose(1, 2) for _ in range(2))
    # What items and images add to these is added up below, always in the same order.
    grads_B = grad.new_empty(batch, B.shape[1], call.items // (batch * B.shape[1]), length)
    grads_A, grads_bias = grad.new_empty(2, batch, channels)
    workers = min(numba_threads.threads(), call.items)
    vectors = numba_kernels_backward.RUN + numba_kernels_backward.KEPT * (call.item_channels // LANES)
    scratch = grad.new_empty(workers, vectors * LANES)
    ramp = torch.cat((grad.new_zeros(LANES), grad.new_ones(LANES)))
    others = [
        *(*place_of_tokens(states), *place_of_tokens(grad)),
        *(grad_u.data_ptr(), *place_of_tokens(grad_delta)),
        *(*call.parameters, ramp.data_ptr(), grads_B.data_ptr(), grads_A.data_ptr(), grads_bias.data_ptr()),
        *(scratch.data_ptr(), 4 * scratch.stride(0), call.u.itemsize),
    ]
    numba_threads.run(numba_kernels_backward.KERNEL, workers, [*call.numbers, *others])
    grad_B, grad_A, grad_bias = map(numba_threads.ordered_sum, (grads_B.movedim(2, 0), grads_A, grads_bias))
    return (
        grad_u.to(u.dtype),
        grad_delta.to(delta.dtype),
        grad_A.to(A.dtype),
        grad_B.to(B.dtype),
        grad_bias if delta_bias is None else grad_bias.to(delta_bias.dtype),
    )


class _Call:
    """What both kernels are told alike: ``numbers`` first, ``parameters`` among the others."""

    def __init__(
        self, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
    ) -> None:
        batch, channels, length = u.shape
        dtype = torch.bfloat16 if u.dtype == delta.dtype == torch.bfloat16 else torch.float32
        self.u, self.delta = _tokens(u, dtype), _tokens(delta, dtype)
        bias = A.new_zeros(channels) if delta_bias is None else delta_bias
        self.A, self.B, self.bias = numbers_of(A, B, bias)
        groups = B.shape[1]
        group_channels = channels // groups
        self.item_channels = min(ITEM_CHANNELS, (group_channels + LANES - 1) // LANES * LANES)
        self.items = batch * groups * ((group_channels + self.item_channels - 1) // self.item_channels)
        self.numbers = [
            *(self.items, int(delta_softplus), groups, group_channels, self.item_channels, length),
            *(*place_of_tokens(self.u), *place_of_tokens(self.delta)),
        ]
        self.parameters = [self.B.data_ptr(), self.A.data_ptr(), self.bias.data_ptr()]


def _tokens(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (B, C, L) in ``dtype``, the channels of a token side by side; without a copy where they are so already."""
    x = cast(x, dtype)
    return x if x.stride()[1] == 1 else x.transpose(1, 2).contiguous().transpose(1, 2)
