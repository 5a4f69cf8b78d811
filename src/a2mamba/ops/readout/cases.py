"""The cases that tests, self-tests and ``doctor`` share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from a2mamba.ops.case_parts import ChannelNorm, drawing


@dataclass(frozen=True)
class Case:
    """Sizes of one call: an even number of ``heads`` of ``width`` channels each."""

    batch: int
    heads: int
    width: int
    height: int
    columns: int

    def __str__(self) -> str:
        return f"b{self.batch}g{self.heads}d{self.width}h{self.height}w{self.columns}"

    def maps(self, count: int, dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Tensor]:
        """Return maps (B, C, H, W), channels innermost, the last of them a part of a wider one."""
        draw, shape = drawing(seed), (self.batch, self.height, self.columns, self.heads * self.width)
        maps = [draw(*shape) for _ in range(count)]
        maps[-1] = torch.cat((maps[-1], maps[-1]), dim=-1)[..., shape[-1] :]
        return [each.to(device, dtype).permute(0, 3, 1, 2) for each in maps]

    def vectors(self, count: int, dtype: torch.dtype, device: torch.device | str, seed: int) -> list[Tensor]:
        """Return so many vectors (C,)."""
        draw = drawing(seed + 1, dtype, device)
        return [draw(self.heads * self.width) for _ in range(count)]

    def read_out_inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return halves of states, weight and bias of the mixing, readout, u and skip."""
        first, second, u = self.maps(3, dtype, device, seed)
        half = self.heads // 2
        # Each half in memory of its own, as the attention leaves it.
        states = [
            each.permute(0, 2, 3, 1)[..., : half * self.width].contiguous().unflatten(-1, (half, self.width))
            for each in (first, second)
        ]
        draw = drawing(seed + 2, dtype, device)
        weight, bias = draw(self.heads, self.heads), draw(self.heads)
        readout = draw(self.batch, self.height, self.columns, 3)
        (skip,) = self.vectors(1, dtype, device, seed)
        halves = states[0].permute(0, 3, 1, 2, 4), states[1].permute(0, 3, 1, 2, 4)
        return halves, weight, bias, readout[..., 2], u, skip

    def gated_norm_inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, nn.BatchNorm2d, ChannelNorm, ChannelNorm]:
        """Return x, what is added, the gate, its norm and the two others."""
        x, gate, added = self.maps(3, dtype, device, seed)
        norms = []
        a, b, c, d, e, f, mean, variance = self.vectors(8, dtype, device, seed)
        for weight, bias in ((a, b), (c, d)):
            norm = ChannelNorm(len(weight), eps=1e-6)
            norm.weight, norm.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))
            norms.append(norm)
        gate_norm = nn.BatchNorm2d(len(e)).eval()
        gate_norm.weight, gate_norm.bias = (nn.Parameter(each, requires_grad=False) for each in (e, f))
        gate_norm.running_mean, gate_norm.running_var = mean, variance.square()
        return x, added, gate, gate_norm, norms[0], norms[1]


CASES = (
    Case(1, 2, 8, 1, 1),
    Case(2, 2, 16, 9, 13),
    Case(1, 4, 24, 5, 3),
    Case(3, 10, 32, 7, 7),
    Case(3, 2, 8, 1, 1),
    Case(2, 2, 8, 1, 3),
    Case(0, 2, 8, 3, 3),
)
"""One position, runs that end early, odd numbers of vectors, many heads, maps of one position or row, nothing."""
