"""Parameters of a selective state-space model with state width one, and their initial values."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STEP_MIN, STEP_MAX, STEP_FLOOR = 1e-3, 1e-1, 1e-4


def step_rank(channels: int) -> int:
    """Return R = ceil(C / 16), the width of the low-rank step size."""
    return math.ceil(channels / 16)


@torch.no_grad()
def init_step_projection(weight: Tensor, bias: Tensor) -> None:
    """Initialize the projection of the step size in place, (..., C, R) and (..., C).

    The weight is uniform in +-R ** -0.5; softplus of the bias is log-uniform in [0.001, 0.1]
    (docs/network.md, section 9).
    """
    bound = weight.shape[-1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)
    span = math.log(STEP_MAX) - math.log(STEP_MIN)
    step = torch.exp(torch.rand_like(bias) * span + math.log(STEP_MIN)).clamp(min=STEP_FLOOR)
    bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus


@torch.no_grad()
def init_input_projection(weight: Tensor) -> None:
    """Initialize the (..., R + 2, C) projection in place as nn.Linear does: uniform in +-C ** -0.5."""
    bound = weight.shape[-1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)
