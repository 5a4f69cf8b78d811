"""The cases that tests, self-tests and ``doctor`` share."""

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a part of a map, channels innermost and values to 8, the weight and the bias."""
        draw = drawing(seed, dtype, device)
        x = 2 * draw(self.batch, self.height, self.width, 2 * self.channels)[..., self.channels :]
        return x.permute(0, 3, 1, 2), draw(self.channels, 1, 3, 3), draw(self.channels)


CASES = (
    Case(1, 8, 1, 1),
    Case(2, 16, 5, 9),
    Case(3, 24, 2, 4),
    Case(1, 40, 31, 6),
    Case(3, 8, 1, 1),
    Case(0, 8, 3, 3),
)
"""One position, widths that four divides and does not, one image that is cut, several images, none."""
