"""The selective scan with state width one, written to be read: this file is the specification.

Shapes: B batch, C channels, L tokens, N groups of consecutive channels that share one input projection.

    x_t = delta_t * B_t * u_t           (delta after bias and softplus)
    h_t = exp(A * delta_t) * h_{t-1} + x_t,   h_0 = 0,   per channel

The loop runs in float32 at least: half-precision inputs are raised, float64 stays. Autograd differentiates it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def state_dtype(u: Tensor) -> torch.dtype:
    """Return the dtype in which the recurrence of ``u`` runs: float64 for float64, otherwise float32."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def step_size(delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool, dtype: torch.dtype) -> Tensor:
    """Return the positive step sizes, (B, C, L) in ``dtype``. Softplus is linear above 20."""
    delta = delta.to(dtype)
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    return F.softplus(delta, threshold=20.0) if delta_softplus else delta


def spread_groups(B: Tensor, channels: int) -> Tensor:
    """Return B (B, L) or (B, N, L) as (B, C, L): every group of C / N channels reads its own row."""
    if B.dim() == 2:
        return B[:, None].expand(-1, channels, -1)
    return B.repeat_interleave(channels // B.shape[1], dim=1)


def selective_scan_state(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """Return the states of every token, (B, C, L), by the recurrence itself: one step a token."""
    dtype = state_dtype(u)
    delta = step_size(delta, delta_bias, delta_softplus, dtype)
    decay = torch.exp(A.to(dtype)[:, None] * delta)
    x = delta * spread_groups(B.to(dtype), u.shape[1]) * u.to(dtype)
    h = torch.zeros_like(x[..., 0])
    states = []
    for t in range(x.shape[-1]):
        h = decay[..., t] * h + x[..., t]
        states.append(h)
    return torch.stack(states, dim=-1) if states else x
