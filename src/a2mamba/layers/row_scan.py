"""One selective scan along the rows of a map: A2SSM without attention, SS2D with one of its four directions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.ssm import init_input_projection, init_step_projection, step_rank
from a2mamba.ops import selective_scan_state
from a2mamba.ops.precision import without_autocast


class RowScan(nn.Module):
    """h_t = exp(step_t A) h_{t-1} + step_t B_t x_t, y_t = C_t h_t + D x_t over the positions in row-major order.

    Args:
        channels: C.
        device, dtype: of the parameters.
    """

    def __init__(self, channels: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.rank = step_rank(channels)
        self.x_proj = nn.Linear(channels, self.rank + 2, bias=False, device=device, dtype=dtype)
        self.dt_proj = nn.Linear(self.rank, channels, device=device, dtype=dtype)
        self.A_log = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.D = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        """Set the initial values of all parameters."""
        init_input_projection(self.x_proj.weight)
        init_step_projection(self.dt_proj.weight, self.dt_proj.bias)
        nn.init.zeros_(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), float32 at least."""
        sequence = x.flatten(2)
        dt, B, C = self.x_proj(sequence.transpose(1, 2)).split((self.rank, 1, 1), dim=-1)
        states = selective_scan_state(
            sequence,
            F.linear(dt, self.dt_proj.weight).transpose(1, 2),
            -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp(),
            B.squeeze(-1),
            self.dt_proj.bias,
        )
        with without_autocast(x):
            readout, skip = C.to(states.dtype).transpose(1, 2), self.D.to(states.dtype)[:, None]
            return (states * readout + sequence.to(states.dtype) * skip).unflatten(2, x.shape[2:])
