"""The convolutional feed-forward network of a block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.depthwise import ResidualDepthwise


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
        return self.fc2(self.dwconv(F.gelu(self.fc1(x))))
