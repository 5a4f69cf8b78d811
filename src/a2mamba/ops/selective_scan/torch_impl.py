"""The selective scan in plain PyTorch: two levels of loops over about sqrt(L) slices, fast on every device.

The sequence is cut into chunks. One loop over the places inside a chunk advances all chunks at once and keeps the
running products of the decays; the last states of the chunks are then scanned the same way, and what they carry is
added with one fused multiply-add. Work and memory are O(L), and products only ever shrink: nothing is divided, so
nothing overflows. Everything is kept as (B, L, C): in channels-last networks no input is transposed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from a2mamba.ops.selective_scan.reference import spread_groups, state_dtype, step_size

SEQUENTIAL = 8
"""Up to this length a plain loop is the fastest form."""


def linear_recurrence(decay: Tensor, x: Tensor, reverse: bool = False) -> Tensor:
    """Return h with h_t = decay_t * h_{t-1} + x_t along axis 1 of (B, L, C); ``reverse`` runs from the end.

    Both arguments are overwritten.
    """
    length = x.shape[1]
    if length <= SEQUENTIAL:
        _advance(decay, x, reverse, keep_products=False)
        return x
    size = _chunk_size(length)
    padding = -length % size
    if padding:
        # The filling goes where the recurrence ends, so that it never reaches a real token.
        where = (0, 0, padding, 0) if reverse else (0, 0, 0, padding)
        decay, x = (torch.nn.functional.pad(t, where) for t in (decay, x))
    # (B, chunks, C) for every place in a chunk; slicing keeps C innermost.
    products, states = (t.unflatten(1, (-1, size)).transpose(1, 2) for t in (decay, x))
    _advance(products, states, reverse, keep_products=True)
    last = 0 if reverse else size - 1
    carried = linear_recurrence(products[:, last].clone(), states[:, last].clone(), reverse)
    if reverse:
        states[:, :, :-1].addcmul_(products[:, :, :-1], carried[:, None, 1:])
        return x[:, padding:]
    states[:, :, 1:].addcmul_(products[:, :, 1:], carried[:, None, :-1])
    return x[:, :length]


def _advance(decay: Tensor, x: Tensor, reverse: bool, keep_products: bool) -> None:
    """Run the recurrence along axis 1 in place; ``decay`` becomes the running product of itself."""
    order = range(x.shape[1] - 2, -1, -1) if reverse else range(1, x.shape[1])
    before = 1 if reverse else -1
    for t in order:
        x[:, t].addcmul_(decay[:, t], x[:, t + before])
        if keep_products:
            decay[:, t].mul_(decay[:, t + before])


def _chunk_size(length: int) -> int:
    """Return a chunk length near sqrt(length), a divisor when one lies within a factor of 1.5."""
    root = round(math.sqrt(length))
    for distance in range(root // 2 + 1):
        for size in (root - distance, root + distance):
            if 3 * size >= 2 * root and 2 * size <= 3 * root and length % size == 0:
                return size
    return root


def _prepare(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return step, decay, input projection and input as (B, L, C) in the state's dtype."""
    dtype = state_dtype(u)
    step = step_size(delta, delta_bias, delta_softplus, dtype).transpose(1, 2).contiguous()
    decay = torch.exp(step * A.to(dtype))
    projection = B.to(dtype) if B.shape[1] == 1 else spread_groups(B.to(dtype), u.shape[1])
    return step, decay, projection.transpose(1, 2), u.to(dtype).transpose(1, 2)


def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    """Return the states (B, C, L), stored with C innermost; arguments as in ``reference.selective_scan_state``."""
    step, decay, projection, u = _prepare(u, delta, A, B, delta_bias, delta_softplus)
    x = (step * u).mul_(projection).contiguous()
    return linear_recurrence(decay, x).transpose(1, 2)


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
    """Return the gradients of u, delta, A, B and delta_bias (zeros of shape (C,) without one)."""
    step, decay, projection, x = _prepare(u, delta, A, B, delta_bias, delta_softplus)
    # lambda_t = g_t + decay_{t+1} * lambda_{t+1} is the gradient of x_t = step_t * B_t * u_t.
    following = torch.zeros_like(decay)
    following[:, :-1] = decay[:, 1:]
    adjoint = linear_recurrence(
        following, grad.to(step.dtype).transpose(1, 2).clone(memory_format=torch.contiguous_format), True
    )

    previous = torch.zeros_like(decay)
    previous[:, 1:] = states.transpose(1, 2)[:, :-1]
    grad_log_decay = previous.mul_(adjoint).mul_(decay)  # gradient of A * step
    grad_A = (grad_log_decay * step).sum((0, 1))
    weighted = adjoint * step
    per_channel = (weighted * x).transpose(1, 2)
    grad_B = per_channel.unflatten(1, (B.shape[1], -1)).sum(2)
    grad_u = weighted.mul_(projection)
    grad_step = grad_log_decay.mul_(A.to(step.dtype)).add_(adjoint.mul_(projection).mul_(x))
    if delta_softplus:
        # d softplus(z) / dz = 1 - exp(-softplus(z)) below the threshold, 1 above: the same to rounding.
        grad_step = grad_step * -torch.expm1(-step)
    grad_bias = grad_step.sum((0, 1))
    return (
        grad_u.transpose(1, 2).to(u.dtype),
        grad_step.transpose(1, 2).to(delta.dtype),
        grad_A.to(A.dtype),
        grad_B.to(B.dtype),
        grad_bias if delta_bias is None else grad_bias.to(delta_bias.dtype),
    )
