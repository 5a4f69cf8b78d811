"""The convolutional feed-forward network of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.chunking import may_join, may_split, over_images, over_rows
from a2mamba.layers.depthwise import ResidualDepthwise
from a2mamba.layers.pointwise import PointwiseConv
from a2mamba.ops import gelu_depthwise
from a2mamba.ops.dispatch import on_gpu

MAX_CHUNK_ELEMENTS = 2**21
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
        self.fc1 = PointwiseConv(channels, hidden, device=device, dtype=dtype)
        self.dwconv = ResidualDepthwise(hidden, 3, device=device, dtype=dtype)
        self.fc2 = PointwiseConv(hidden, channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        hidden, (height, width) = self.fc1.out_channels, x.shape[2:]
        if not may_split(self, x, hidden, 2 * MAX_CHUNK_ELEMENTS):
            return self._whole(x)
        row = hidden * width
        if height * row <= MAX_CHUNK_ELEMENTS:
            return over_images(self._whole, x, MAX_CHUNK_ELEMENTS // (height * row))
        return over_images(lambda image: over_rows(self._whole, image, MAX_CHUNK_ELEMENTS // row, margin=1), x, 1)

    def _whole(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        conv = self.dwconv
        if not on_gpu(x) and may_join(x, conv):
            assert conv.bias is not None
            return self.fc2(gelu_depthwise(x, conv.weight, conv.bias))
        return self.fc2(conv(F.gelu(x)))
