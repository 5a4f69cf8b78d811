"""The cases that tests and self-tests share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from a2mamba.ops.case_parts import MapCase, drawing


@dataclass(frozen=True)
class Case(MapCase):
    """Sizes of one call."""

    kernel_size: int

    def __str__(self) -> str:
        return f"{super().__str__()}-k{self.kernel_size}"

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a part of a map, channels innermost, the weight and the bias."""
        draw = drawing(seed, dtype, device)
        x = draw(self.batch, self.height, self.width, 2 * self.channels)[..., self.channels :].permute(0, 3, 1, 2)
        weight = draw(self.channels, 1, self.kernel_size, self.kernel_size)
        return x, weight, draw(self.channels)


CASES = (
    Case(1, 8, 1, 1, 3),
    Case(2, 48, 5, 11, 3),
    Case(1, 100, 9, 4, 5),
    Case(2, 24, 14, 17, 5),
    Case(0, 8, 3, 3, 3),
)
"""One position, tiles that a map fills and does not, channels likewise, both kernels, none."""
