"""The cases that tests and self-tests share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """Sizes of one call: ``heads`` of ``head_dim`` channels each."""

    batch: int
    heads: int
    head_dim: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"b{self.batch}g{self.heads}d{self.head_dim}h{self.height}w{self.width}"

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return a part of a map, channels innermost, and rotations, float32 at least."""
        generator = torch.Generator().manual_seed(seed)
        channels = self.heads * self.head_dim
        x = torch.randn(self.batch, self.height, self.width, 3 * channels, generator=generator, dtype=torch.float64)
        angle = torch.randn(self.height, self.width, self.head_dim // 2, generator=generator, dtype=torch.float64)
        table = torch.stack((angle.cos(), angle.sin()), dim=-1)
        wide = torch.promote_types(dtype, torch.float32)
        return x[..., :channels].to(device, dtype).permute(0, 3, 1, 2), table.to(device, wide)


CASES = (
    Case(1, 1, 4, 1, 1),
    Case(2, 4, 24, 5, 9),
    Case(1, 20, 28, 3, 4),
    Case(0, 2, 8, 3, 3),
)
"""One position, heads that fill a block and do not, several images, none."""
