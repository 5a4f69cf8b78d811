"""UperNet's decoder and its auxiliary head (arXiv:1807.10221), as in the protocol of Swin (paper, Table VI)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from a2mamba.segmentation.conv import Classifier, ConvNormReLU, PooledConv, resize_to

GRIDS = (1, 2, 3, 6)
"""Sides of the pooled maps of the pyramid pooling module."""


class UperHead(nn.Module):
    """Pyramid pooling on the last map, a feature pyramid down to the first, all four fused at stride 4.

    Args:
        channels: of the four maps, strides 4 to 32.
        num_classes: of the logits.
        width: channels of the decoder, 512 in the paper.
        drop_rate: of the classifier's dropout.
    """

    stride = 4

    def __init__(
        self, channels: tuple[int, ...], *, num_classes: int, width: int = 512, drop_rate: float = 0.1
    ) -> None:
        super().__init__()
        *shallow, last = channels
        self.pools = nn.ModuleList(PooledConv(last, width, grid=grid) for grid in GRIDS)
        self.bottleneck = ConvNormReLU(last + len(GRIDS) * width, width, 3)
        self.laterals = nn.ModuleList(ConvNormReLU(c, width) for c in shallow)
        self.outputs = nn.ModuleList(ConvNormReLU(width, width, 3) for _ in shallow)
        self.fuse = ConvNormReLU(len(channels) * width, width, 3)
        self.classifier = Classifier(width, num_classes, drop_rate=drop_rate)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps of strides 4, 8, 16, 32 -> logits (B, classes, H / 4, W / 4)."""
        *shallow, last = features
        top = self.bottleneck(torch.cat([last, *(pool(last) for pool in self.pools)], dim=1))
        pyramid = [top]
        for lateral, x in zip(reversed(self.laterals), reversed(shallow), strict=True):
            x = lateral(x)
            pyramid.append(x + resize_to(pyramid[-1], x))
        deepest, *rest = pyramid
        maps = [output(x) for output, x in zip(self.outputs, reversed(rest), strict=True)]
        fused = self.fuse(torch.cat([resize_to(x, maps[0]) for x in (*maps, deepest)], dim=1))
        return self.classifier(fused)


class FCNHead(nn.Module):
    """One 3 x 3 convolution and a classifier on the map of stride 16, trained beside the decoder and not used after.

    Args:
        channels: of the four maps, strides 4 to 32.
        num_classes: of the logits.
        width: channels in between, 256 in the paper.
        drop_rate: of the classifier's dropout.
    """

    stride = 16

    def __init__(
        self, channels: tuple[int, ...], *, num_classes: int, width: int = 256, drop_rate: float = 0.1
    ) -> None:
        super().__init__()
        self.conv = ConvNormReLU(channels[2], width, 3)
        self.classifier = Classifier(width, num_classes, drop_rate=drop_rate)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps of strides 4, 8, 16, 32 -> logits (B, classes, H / 16, W / 16)."""
        return self.classifier(self.conv(features[2]))
