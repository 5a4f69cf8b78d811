"""Depthwise convolutions with a residual, as one convolution where that is exact enough."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.ops import depthwise_conv, gelu_depthwise
from a2mamba.ops.feed_forward import residual_depthwise, with_residual
from a2mamba.ops.precision import in_half_precision


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution k x k with bias.

    Args:
        channels: C.
        kernel_size: k, odd.
        silu: followed by SiLU.
        device, dtype: of the parameters.
    """

    bias: Tensor

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        silu: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, device=device, dtype=dtype
        )
        self.silu = silu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return depthwise_conv(x, self.weight, self.bias, silu=self.silu)


class ResidualDepthwise(DepthwiseConv):
    """x + depthwise_conv(x), kernel k x k with bias; see ``ops.feed_forward.residual_depthwise``.

    Args:
        channels: C.
        kernel_size: k, odd.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, kernel_size, device=device, dtype=dtype)
        self.folded: Tensor | None
        self.register_buffer("folded", None)

    def fold(self) -> None:
        """Keep the kernel with its one for good. For inference: it does not follow the weight any more."""
        self.folded = with_residual(self.weight).detach()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if self.folded is None or in_half_precision(x):
            return residual_depthwise(x, self.weight, self.bias)
        return F.conv2d(x, self.folded, self.bias, padding=self.padding, groups=self.groups)


class GeluDepthwise(nn.Conv2d):
    """y + depthwise_conv(y) of y = gelu(x), kernel 3 x 3 with bias: the middle of a feed-forward network.

    Args:
        channels: C.
        device, dtype: of the parameters.
    """

    bias: Tensor

    def __init__(self, channels: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return gelu_depthwise(x, self.weight, self.bias)
