"""The cases that tests, self-tests and ``doctor`` share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from a2mamba.ops.case_parts import drawing


@dataclass(frozen=True)
class Case:
    """Sizes of one call."""

    batch: int
    height: int
    width: int
    heads: int
    d: int

    def __str__(self) -> str:
        return f"b{self.batch}h{self.height}w{self.width}g{self.heads}d{self.d}"

    def inputs(
        self, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return x (B, H, W, 2, G, d), a part of wider memory, and a table, float32 at least."""
        draw = drawing(seed)
        wide = draw(self.batch, self.height, self.width, 3 * self.heads * self.d).to(device, dtype)
        x = wide[..., : 2 * self.heads * self.d].unflatten(-1, (2, self.heads, self.d))
        angle = draw(self.height, self.width, self.d // 2)
        table = torch.stack((angle.cos(), angle.sin()), dim=-1)
        return x, table.to(device, torch.promote_types(dtype, torch.float32))


CASES = (Case(1, 1, 1, 1, 8), Case(2, 5, 9, 2, 24), Case(3, 9, 8, 1, 32), Case(0, 3, 3, 1, 8))
"""One position, runs that end early, several images, none."""
