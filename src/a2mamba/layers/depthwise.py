"""Depthwise convolution with a residual, as one convolution where that is exact enough."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.ops import depthwise_conv
from a2mamba.ops.dispatch import on_gpu, unwatched
from a2mamba.ops.feed_forward import with_residual
from a2mamba.ops.precision import in_half_precision


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution k x k with bias.

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
        super().__init__(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, device=device, dtype=dtype
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        if not on_gpu(x):
            return super().forward(x)
        assert self.bias is not None
        return depthwise_conv(x, self.weight, self.bias)


class ResidualDepthwise(DepthwiseConv):
    """x + depthwise_conv(x), kernel k x k with bias.

    In float32 the residual is a one in the middle of the kernel, which saves a pass over the map. In half precision the
    sum of that one and a small weight would be rounded, so there the two are added as they are written.

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

    def fold_residual(self) -> None:
        """Keep the kernel with its one for good. For inference: it does not follow the weight any more."""
        self.folded = with_residual(self.weight).detach()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        assert self.bias is not None
        if on_gpu(x) and (in_half_precision(x) or unwatched(x)):
            return depthwise_conv(x, self.weight, self.bias, residual=True)
        if in_half_precision(x):
            return x + super().forward(x)
        kernel = with_residual(self.weight) if self.folded is None else self.folded
        return F.conv2d(x, kernel, self.bias, padding=self.padding, groups=self.groups)
