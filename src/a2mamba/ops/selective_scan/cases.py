"""The cases that tests, self-tests and benchmarks of the selective scan share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from a2mamba.ops.case_parts import drawing


@dataclass(frozen=True)
class Case:
    """Sizes of one call; ``groups`` is N, the number of rows of B."""

    batch: int
    channels: int
    length: int
    groups: int = 1
    bias: bool = True
    softplus: bool = True
    channels_last: bool = True

    def __str__(self) -> str:
        flags = ("" if self.bias else "-nobias") + ("" if self.softplus else "-plain")
        return f"b{self.batch}c{self.channels}l{self.length}n{self.groups}{flags}{'-cl' if self.channels_last else ''}"

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Return u, delta (B, C, L), A (C,), B (B, N, L) and the bias (C,) or None."""
        draw = drawing(seed)

        def tokens(values: Tensor) -> Tensor:
            if self.channels_last:
                values = values.transpose(1, 2).contiguous().transpose(1, 2)
            return values.to(device, dtype)

        u, delta = draw(self.batch, self.channels, self.length), draw(self.batch, self.channels, self.length)
        delta = delta if self.softplus else delta.abs() * 0.1
        A = -torch.exp(0.5 * draw(self.channels))
        B = draw(self.batch, self.groups, self.length)
        bias = (draw(self.channels) - 3).to(device, dtype) if self.bias else None
        return tokens(u), tokens(delta), A.to(device, dtype), B.to(device, dtype), bias


CASES = (
    Case(1, 3, 1),
    Case(2, 4, 7, groups=2),
    Case(2, 8, 49),
    Case(1, 16, 196, groups=4, channels_last=False),
    Case(2, 6, 211),
    Case(1, 5, 1009, bias=False),
    Case(1, 4, 400, bias=False, softplus=False),
    Case(0, 2, 9),
)
"""Lengths of one token, primes, squares; groups; both memory orders."""
