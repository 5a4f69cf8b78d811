"""The feature pyramid: the maps of a backbone, at one width, and one level more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool


class FeaturePyramid(FeaturePyramidNetwork):
    """torchvision's pyramid with a coarsest level that is every second pixel of the one before.

    Lateral 1 x 1 and output 3 x 3 convolutions with bias; coarser maps are added after nearest up-sampling.

    Args:
        channels: of the maps, finest first.
        width: channels of every level.
        init: "xavier" or "kaiming" (a = 1), uniform; biases are zero.
    """

    def __init__(self, channels: Sequence[int], width: int, *, init: Literal["xavier", "kaiming"]) -> None:
        super().__init__(list(channels), width, extra_blocks=LastLevelMaxPool())
        if init == "xavier":
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.xavier_uniform_(module.weight)

    def levels(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i), finest first -> levels (B, width, H_i, W_i), and one more of half the size."""
        return list(self(OrderedDict((str(i), x) for i, x in enumerate(maps))).values())
