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
        size = y.shape[2:]
        u, A_log, dt_proj, head_mix = self.conv(y), self.A_log, self.dt_proj, self.head_mix
        sequence = u.flatten(2)
        dt, B, C = torch.split_with_sizes(self.x_proj(sequence.transpose(1, 2)), (self.rank, 1, 1), dim=-1)
        delta = F.linear(dt, dt_proj.weight)
        states = selective_scan_state(
            sequence,
            delta.transpose(1, 2),
            -A_log.to(torch.promote_types(A_log.dtype, torch.float32)).exp(),
            B.squeeze(-1),
            dt_proj.bias,
            dtype=y.dtype,
        )
        aggregated = aggregate(to_heads(torch.unflatten(states, -1, size), self.heads))
        readout = torch.unflatten(C.squeeze(-1), -1, size)
        return read_out(aggregated, head_mix.weight, head_mix.bias, readout, u, self.D)
