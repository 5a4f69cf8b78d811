"""The selective scan as a graph of additions and multiplications, for runtimes that have no loops.

The sequence is cut into chunks. Unrolled steps advance all chunks at once; the last states of the chunks are scanned
the same way, and what they carry into the next chunk is added with its decay, the exponential of a running sum. A decay
is never above one and nothing is divided, so the form is exact: it is the recurrence, bracketed otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SEQUENTIAL = 16
"""Up to this length the recurrence is unrolled as it is."""


def selective_scan_state(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
) -> Tensor:
    """Return the states (B, C, L); arguments as the operator's, float32: u and delta (B, C, L), A (C,), B (B, N, L)."""
    step = delta.transpose(1, 2)
    if delta_bias is not None:
        step = step + delta_bias
    if delta_softplus:
        step = F.softplus(step)
    projection = B.transpose(1, 2)
    groups, channels = B.shape[1], u.shape[1]
    if groups > 1:
        projection = projection.unsqueeze(-1).expand(-1, -1, -1, channels // groups).flatten(2)
    return linear_recurrence(step * A, step * projection * u.transpose(1, 2)).transpose(1, 2)


def linear_recurrence(log_decay: Tensor, x: Tensor) -> Tensor:
    """Return h with h_t = exp(log_decay_t) h_{t-1} + x_t along axis 1 of (B, L, C), from zero.

    Args:
        log_decay: (B, L, C), not above zero.
        x: (B, L, C).

    Returns:
        (B, L, C).
    """
    length = x.shape[1]
    if length <= SEQUENTIAL:
        return torch.cat(_steps(log_decay.exp(), x, 1), 1)
    size = chunk_size(length)
    padding = -length % size
    if padding:
        log_decay, x = (F.pad(each, (0, 0, 0, padding)) for each in (log_decay, x))
    log_decay, x = (each.unflatten(1, (-1, size)) for each in (log_decay, x))  # (B, chunks, places, C)
    states = _steps(log_decay.exp(), x, 2)
    total = log_decay.cumsum(2)
    ends = linear_recurrence(total[:, :-1, -1], states[-1][:, :-1, 0])
    carried = F.pad(ends, (0, 0, 1, 0))  # nothing is carried into the first chunk
    h = torch.cat(states, 2) + total.exp() * carried.unsqueeze(2)
    return h.flatten(1, 2)[:, :length]


def _steps(decay: Tensor, x: Tensor, dim: int) -> list[Tensor]:
    """The states after every step along an axis, which each of them keeps, one long."""
    inputs = x.split(1, dim)
    states = [inputs[0]]
    for a, b in zip(decay.split(1, dim)[1:], inputs[1:], strict=True):
        states.append(a * states[-1] + b)
    return states


def chunk_size(length: int) -> int:
    """Return the places of a chunk: near twice the cube root of the length, where possible a divisor.

    Chunks of chunks make the number of steps grow as the cube root, and with it the nodes of the graph.
    """
    target = round(2 * length ** (1 / 3))
    nearby = range(max(2, target - target // 3), target + target // 3 + 1)
    return min((size for size in nearby), key=lambda size: (length % size != 0, abs(size - target)))
