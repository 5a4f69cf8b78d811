"""1 x 1 convolution, as a linear map where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.ops.dispatch import not_plain, on_gpu, unwatched
from a2mamba.ops.precision import in_half_precision

FEW_POSITIONS = 1024
"""Up to so many positions a linear map is faster on CPUs: a convolution of few takes longer to begin than to do."""


class PointwiseConv(nn.Conv2d):
    """1 x 1 convolution with bias.

    On GPUs in half precision it is written as a linear map of every position: the product then adds the bias itself,
    for which cuDNN's convolutions take another pass. In float32 it stays a convolution, which may use TF32 where a
    product by default may not. At inference on CPUs it is a linear map where the positions are few.

    Args:
        channels: of the input.
        out_channels: of the output.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, out_channels, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, H, W), channels innermost where those of ``x`` are."""
        weight = self.weight
        if not _as_product(x) or not_plain(weight):
            return super().forward(x)
        return F.linear(x.permute(0, 2, 3, 1), weight.view(weight.shape[:2]), self.bias).permute(0, 3, 1, 2)


def _as_product(x: Tensor) -> bool:
    """Whether a linear map of every position of ``x`` is faster than a convolution."""
    if on_gpu(x):
        return in_half_precision(x)
    # Not under autocast, which keeps its casts of a weight, but not of another form of it.
    if not x.is_cpu or not unwatched(x) or torch.is_autocast_enabled("cpu"):
        return False
    return x.shape[0] * x.shape[2] * x.shape[3] <= FEW_POSITIONS
