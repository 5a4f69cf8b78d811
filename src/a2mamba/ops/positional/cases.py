"""The cases that tests, self-tests and ``doctor`` share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from a2mamba.ops.case_parts import ChannelNorm, MapCase, drawing


class Affine(nn.Module):
    """weight * x + bias of a map, by channel."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(each, requires_grad=False) for each in (weight, bias))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class Residual(nn.Conv2d):
    """x + depthwise_conv(x), kernel 3 x 3."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return x + super().forward(x)


@dataclass(frozen=True)
class Case(MapCase):
    """Sizes of one call; with a branch, and with an affine of the shortcut."""

    branch: bool = True
    scaled: bool = False

    def __str__(self) -> str:
        return super().__str__() + "-branch" * self.branch + "-s" * self.scaled

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor | None, nn.Module, Residual, ChannelNorm]:
        """Return x, a part of a map with channels innermost, the branch, and the three modules."""
        draw = drawing(seed, dtype, device)
        channels = self.channels
        x, branch = (
            draw(self.batch, self.height, self.width, 2 * channels)[..., channels:].permute(0, 3, 1, 2) for _ in "xb"
        )
        pos, norm = Residual(channels), ChannelNorm(channels, eps=1e-6)
        for module, shape in ((pos, (channels, 1, 3, 3)), (norm, (channels,))):
            module.weight, module.bias = (nn.Parameter(draw(*s), requires_grad=False) for s in (shape, (channels,)))
        skip = Affine(draw(channels), draw(channels)) if self.scaled else nn.Identity()
        return x, branch if self.branch else None, skip, pos, norm


CASES = (
    Case(1, 8, 1, 1),
    Case(2, 16, 5, 9, scaled=True),
    Case(3, 24, 2, 4, branch=False),
    Case(1, 40, 31, 6),
    Case(3, 8, 1, 1, scaled=True),
    Case(0, 8, 3, 3),
)
"""One position, widths that four divides and does not, one image that is cut, several images, none."""
