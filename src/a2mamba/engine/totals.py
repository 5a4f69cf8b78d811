"""The losses and the time of an epoch so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class EpochTotals:
    """Sums over the steps of an epoch; of all processes, so they are the same in each.

    sums     of each loss times its samples, over the steps that were taken
    counted  those samples
    samples  of this session, whose time was taken
    seconds  that these took
    """

    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    samples: int = 0
    seconds: float = 0.0

    def add(self, means: Mapping[str, float], samples: int) -> None:
        """Adds the losses of a step that was taken."""
        for name, value in means.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * samples
        self.counted += samples

    def row(self) -> dict[str, float]:
        """The means, and the speed."""
        row = {name: value / self.counted for name, value in self.sums.items()}
        row["seconds"] = self.seconds
        row["images_per_second"] = self.samples / self.seconds if self.seconds else math.nan
        return row
