"""The convolutional feed-forward network of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.depthwise import ResidualDepthwise
from a2mamba.layers.pieces import may_split, over_images, over_rows, unhooked
from a2mamba.ops import gelu_depthwise
from a2mamba.ops.dispatch import unwatched
from a2mamba.ops.precision import in_half_precision

PIECE = 2**21
"""Numbers of the wide map that are computed at a time, where the map has twice as many and may be split."""


class ConvFFN(nn.Module):
    """conv1x1 -> GELU -> y + dwconv3x3(y) -> conv1x1, all with bias (SPEC section 3).

    Args:
        channels: C of input and output.
        hidden: width in between.
        device, dtype: of the parameters.
    """

    def __init__(
        self, channels: int, hidden: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1, device=device, dtype=dtype)
        self.dwconv = ResidualDepthwise(hidden, 3, device=device, dtype=dtype)
        self.fc2 = nn.Conv2d(hidden, channels, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        # First of all: sizes that a compiler or an export knows as symbols must not be compared.
        if not unwatched(x):
            return self._whole(x)
        images, _, height, width = x.shape
        row = self.fc1.out_channels * width
        if images * height * row <= 2 * PIECE or not may_split(self, x):
            return self._whole(x)
        if height * row <= PIECE:
            return over_images(self._whole, x, PIECE // (height * row))
        return over_images(lambda image: over_rows(self._whole, image, PIECE // row, margin=1), x, 1)

    def _whole(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        conv = self.dwconv
        if unwatched(x) and not in_half_precision(x) and unhooked(conv):
            assert conv.bias is not None
            return self.fc2(gelu_depthwise(x, conv.weight, conv.bias))
        return self.fc2(conv(F.gelu(x)))
