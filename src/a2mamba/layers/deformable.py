"""Depthwise deformable convolution, version 2: torchvision's operator, with offsets and masks predicted from a map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d


class DepthwiseDeformable(nn.Module):
    """A K x K depthwise convolution whose taps move, by offsets that all channels of a position share.

    Args:
        channels: C.
        kernel_size: K, odd.
        device, dtype: of the parameters.
    """

    def __init__(
        self, channels: int, kernel_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.taps = kernel_size**2
        self.predict = nn.Conv2d(channels, 3 * self.taps, 1, device=device, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size, kernel_size, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.init_weights()

    def init_weights(self) -> None:
        """Begin as a plain convolution: no offsets, and every tap counts half."""
        nn.init.zeros_(self.predict.weight)
        assert self.predict.bias is not None
        nn.init.zeros_(self.predict.bias)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        predicted = self.predict(x)
        offsets, mask = predicted[:, : 2 * self.taps], predicted[:, 2 * self.taps :].sigmoid()
        side = self.weight.shape[-1]
        return deform_conv2d(x, offsets, self.weight, self.bias, padding=(side // 2, side // 2), mask=mask)
