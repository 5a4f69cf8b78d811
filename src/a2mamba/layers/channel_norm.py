"""LayerNorm over the channels of a map."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from torch import Tensor

from a2mamba.ops import channel_norm
from a2mamba.ops.dispatch import on_gpu, unwatched


class ChannelNorm(LayerNorm2d):
    """timm's ``LayerNorm2d``, by the operator that knows how few channels a position has.

    Args:
        channels: C.
        before_products: what follows are convolutions and linear maps alone, for which autocast would round the result
            anyway. At inference on GPUs it then has autocast's dtype at once, and float32 elsewhere under autocast.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        channels: int,
        *,
        before_products: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(channels, device=device, dtype=dtype)
        self.before_products = before_products

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        dtype = None
        if self.before_products and on_gpu(x) and torch.is_autocast_enabled(x.device.type) and unwatched(x):
            dtype = torch.get_autocast_dtype(x.device.type)
        return channel_norm(x, self.weight, self.bias, self.eps, dtype=dtype)
