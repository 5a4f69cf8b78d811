"""What operators' cases (``cases.py``) are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def drawing(seed: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Callable[..., Tensor]:
    """Return a function from a shape to standard normal numbers; a seed's are the same for all dtypes and devices."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    return draw


@dataclass(frozen=True)
class MapCase:
    """Sizes of a map (B, C, H, W)."""

    batch: int
    channels: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"b{self.batch}c{self.channels}h{self.height}w{self.width}"


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)
