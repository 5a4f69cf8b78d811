"""The attention-augmented state-space model of A2Mamba (paper section III; docs/network.md, section 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.depthwise import DepthwiseConv
from a2mamba.layers.heads import to_heads
from a2mamba.layers.ssm import init_input_projection, init_step_projection, step_rank
from a2mamba.ops import read_out, selective_scan_state


class A2SSM(nn.Module):
    """A selective scan whose hidden states are aggregated by attention maps before they are read out.

    Args:
        channels: C.
        heads: G; the aggregated states of all heads are mixed by a learned G x G matrix.
        device, dtype: of the parameters.
    """

    def __init__(
        self, channels: int, heads: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.heads = heads
        self.rank = step_rank(channels)
        self.conv = DepthwiseConv(channels, 5, silu=True, device=device, dtype=dtype)
        self.x_proj = nn.Linear(channels, self.rank + 2, bias=False, device=device, dtype=dtype)
        self.dt_proj = nn.Linear(self.rank, channels, device=device, dtype=dtype)
        self.A_log = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.D = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.head_mix = nn.Linear(heads, heads, device=device, dtype=dtype)
        self.init_weights()

    def init_weights(self) -> None:
        """Set what a plain initialization of convolutions and linear maps does not: step, decay, skip."""
        init_input_projection(self.x_proj.weight)
        init_step_projection(self.dt_proj.weight, self.dt_proj.bias)
        nn.init.zeros_(self.A_log)
        nn.init.ones_(self.D)

    def forward(self, y: Tensor, aggregate: Callable[[Tensor], Sequence[Tensor]]) -> Tensor:
        """Scan and aggregate.

        Args:
            y: (B, C, H, W).
            aggregate: applies the attention maps to states (B, G, H, W, d) given in the dtype of ``y``; returns the
                heads in order, as one tensor or several.

        Returns:
            (B, C, H, W), float32 at least.
        """
        height, width = y.shape[2:]
        u = self.conv(y)
        tokens = u.flatten(2).transpose(1, 2)
        dt, B, C = self.x_proj(tokens).split((self.rank, 1, 1), dim=-1)
        delta = F.linear(dt, self.dt_proj.weight)
        states = selective_scan_state(
            u.flatten(2),
            delta.transpose(1, 2),
            -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp(),
            B.squeeze(-1),
            self.dt_proj.bias,
            dtype=y.dtype,
        )
        aggregated = aggregate(to_heads(states.unflatten(-1, (height, width)), self.heads))
        readout = C.squeeze(-1).unflatten(-1, (height, width))
        return read_out(aggregated, self.head_mix.weight, self.head_mix.bias, readout, u, self.D)
