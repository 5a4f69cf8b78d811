"""Norms between a backbone and what stands on its maps."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from a2mamba.layers.channel_norm import ChannelNorm


class OutputNorms(nn.ModuleList):
    """A LayerNorm over the channels of each map, as Swin's detectors and segmenters have them.

    The stages of our backbones end without a norm.

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(ChannelNorm(each) for each in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps (B, C_i, H_i, W_i) -> the same shapes, normalized."""
        return [norm(each) for norm, each in zip(self, maps, strict=True)]
