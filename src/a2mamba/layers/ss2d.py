"""The four-direction selective scan of SegMAN (its LASS mixer and its decoder)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from a2mamba.layers.ssm import init_input_projection, init_step_projection, step_rank
from a2mamba.ops import selective_scan_state
from a2mamba.ops.precision import without_autocast

DIRECTIONS = 4


class SS2D(nn.Module):
    """Scan a map along rows, along columns, and both backwards; each direction has parameters of its own.

    Per direction: h_t = exp(step_t A) h_{t-1} + step_t B_t x_t, y_t = C_t h_t + D x_t; the four maps are added.

    Args:
        channels: C.
        device, dtype: of the parameters.
    """

    def __init__(self, channels: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.rank = step_rank(channels)

        def empty(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(DIRECTIONS, *shape, device=device, dtype=dtype))

        self.x_proj_weight = empty(self.rank + 2, channels)
        self.dt_proj_weight = empty(channels, self.rank)
        self.dt_proj_bias = empty(channels)
        self.A_log = empty(channels)
        self.D = empty(channels)
        self.init_weights()

    def init_weights(self) -> None:
        """Set the initial values of all parameters."""
        init_input_projection(self.x_proj_weight)
        init_step_projection(self.dt_proj_weight, self.dt_proj_bias)
        nn.init.zeros_(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), float32 at least."""
        height, width = x.shape[2:]
        by_rows = x.flatten(2)
        by_columns = x.transpose(2, 3).flatten(2)
        sequences = torch.stack((by_rows, by_columns, by_rows.flip(-1), by_columns.flip(-1)), dim=1)

        projected = torch.einsum("bkcl,krc->bkrl", sequences, self.x_proj_weight)
        dt, B, C = projected.split((self.rank, 1, 1), dim=2)
        delta = torch.einsum("bkrl,kcr->bkcl", dt, self.dt_proj_weight)
        # The directions are groups of channels to the operator.
        states = selective_scan_state(
            sequences.flatten(1, 2),
            delta.flatten(1, 2),
            -self.A_log.exp().flatten(),
            B.squeeze(2),
            self.dt_proj_bias.flatten(),
        ).view(*sequences.shape)
        with without_autocast(x):
            y = states * C.to(states.dtype) + sequences.to(states.dtype) * self.D.to(states.dtype)[..., None]
        rows = y[:, 0] + y[:, 2].flip(-1)
        columns = y[:, 1] + y[:, 3].flip(-1)
        return rows.unflatten(-1, (height, width)) + columns.unflatten(-1, (width, height)).transpose(2, 3)
