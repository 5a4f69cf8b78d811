"""The cases that tests and self-tests share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from a2mamba.ops.case_parts import MapCase, drawing


@dataclass(frozen=True)
class Case(MapCase):
    """Sizes of one call."""

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, float, None]:
        """Return a part of a map, channels innermost and far from zero, weight, bias, eps and no dtype."""
        draw = drawing(seed, dtype, device)
        x = 2 * draw(self.batch, self.height, self.width, 2 * self.channels)[..., self.channels :] + 3
        return x.permute(0, 3, 1, 2), draw(self.channels), draw(self.channels), 1e-6, None


CASES = (
    Case(1, 8, 1, 1),
    Case(2, 48, 5, 9),
    Case(3, 100, 2, 4),
    Case(1, 448, 7, 3),
    Case(0, 8, 3, 3),
)
"""One position, channels that fill a block and do not, several images, none."""
