"""What the tests of the detectors share: a small backbone, images and targets."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Target = dict[str, Tensor]


class SmallBackbone(nn.Module):
    """Four maps of strides 4 to 32, by convolutions alone, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        channels = (6, 8, 10, 12)
        self.feature_info = [{"num_chs": c, "reduction": 4 * 2**i} for i, c in enumerate(channels)]
        self.stem = nn.Conv2d(3, channels[0], 4, stride=4)
        self.norm = nn.BatchNorm2d(channels[0])
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(channels))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [F.relu(self.norm(self.stem(x)))]
        for stage in self.stages:
            maps.append(F.relu(stage(maps[-1])))
        return maps


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    return [torch.rand(3, *size) for size in sizes]


def target(size: tuple[int, int], boxes: list[list[float]], labels: list[int]) -> Target:
    """Objects that fill the ellipses in their boxes."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
        mask[inside] = 1
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "masks": masks,
    }


def total(losses: Any) -> Tensor:
    """Return the sum of a dictionary of losses."""
    return torch.stack(list(losses.values())).sum()


def shake(model: nn.Module, seed: int = 0, *, scale: float = 0.05) -> None:
    """Move all parameters, and the statistics of batch norms, away from their initial values."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data += scale * torch.randn(tensor.shape, generator=generator).abs()
