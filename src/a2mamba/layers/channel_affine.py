"""Per-channel affine scaling of a branch or of a shortcut."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ChannelAffine(nn.Module):
    """y = weight * x + bias per channel of an NCHW map.

    Args:
        channels: C.
        init: initial value of the weight; the bias starts at zero.
        device, dtype: of the parameters.
    """

    def __init__(
        self, channels: int, init: float, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.init = init
        self.weight = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(channels, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to ``init`` and bias to zero."""
        nn.init.constant_(self.weight, self.init)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])

    @torch.no_grad()
    def fold_into(self, conv: nn.Conv2d) -> None:
        """Let the convolution before this affine do both, in place, for inference; computed in float64."""
        assert conv.bias is not None
        factor = self.weight.double()
        weight = conv.weight.double() * factor[:, None, None, None]
        bias = torch.addcmul(self.bias.double(), conv.bias.double(), factor)
        conv.weight.data, conv.bias.data = weight.to(conv.weight.dtype), bias.to(conv.bias.dtype)

    def extra_repr(self) -> str:
        """Show size and initial value."""
        return f"{self.weight.numel()}, init={self.init}"
