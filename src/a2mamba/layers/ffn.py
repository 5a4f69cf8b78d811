"""The convolutional feed-forward network of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from a2mamba.layers.chunking import may_chunk, over_images, over_rows
from a2mamba.layers.depthwise import GeluDepthwise
from a2mamba.layers.pointwise import PointwiseConv

MAX_CHUNK_ELEMENTS = 2**20
"""Elements of the wide map that are computed at a time, where the map has at least twice as many."""


class ConvFFN(nn.Module):
    """conv1x1 -> GELU -> y + dwconv3x3(y) -> conv1x1, all with bias (docs/network.md, section 3).

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
        self.dwconv = GeluDepthwise(hidden, device=device, dtype=dtype)
        self.fc2 = PointwiseConv(hidden, channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        hidden, (height, width) = self.fc1.out_channels, x.shape[2:]
        if not may_chunk(self, x, hidden, 2 * MAX_CHUNK_ELEMENTS):
            return self._whole(x)
        row = hidden * width
        if height * row <= MAX_CHUNK_ELEMENTS:
            return over_images(self._whole, x, MAX_CHUNK_ELEMENTS // (height * row))
        return over_images(lambda image: over_rows(self._whole, image, MAX_CHUNK_ELEMENTS // row, margin=1), x, 1)

    def _whole(self, x: Tensor) -> Tensor:
        return self.fc2(self.dwconv(self.fc1(x)))
