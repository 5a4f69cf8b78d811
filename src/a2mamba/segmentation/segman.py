"""SegMAN's decoder: multi-scale context extraction with state-space models, MMSCopE (arXiv:2412.11890).

Sizes for an image of H x W; E = ``width``, P = ``projection_width``. The map of stride 4 is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from a2mamba.backbone.rules import ReleasedNames, names_by_rules
from a2mamba.layers import SS2D, ConvFFN, ResidualDepthwise
from a2mamba.segmentation.conv import (
    Classifier,
    ConvNormReLU,
    PooledConv,
    pad_to_multiple,
    pixel_unshuffle,
    resize_to,
)
from a2mamba.segmentation.weights import MMSCOPE_RULES


@dataclass(frozen=True)
class SegMANConfig:
    """Widths of the decoder of one size."""

    width: int
    """E, channels of the decoder"""
    projection_width: int
    """P, channels that every stage is projected to"""
    mlp_ratio: int = 4
    """of the feed-forward network after the scan"""
    drop_rate: float = 0.1
    """of the classifier's dropout"""


VARIANTS: dict[str, SegMANConfig] = {
    "segman_tiny": SegMANConfig(width=128, projection_width=192),
    # The Cityscapes run of the original has width 152.
    "segman_small": SegMANConfig(width=144, projection_width=288),
    "segman_base": SegMANConfig(width=180, projection_width=320),
    "segman_large": SegMANConfig(width=224, projection_width=432),
}


class ScanBlock(nn.Module):
    """The backbone's block with SS2D alone as its token mixer.

    Args:
        channels: C.
        mlp_hidden: width of the feed-forward network.
    """

    def __init__(self, channels: int, mlp_hidden: int) -> None:
        super().__init__()
        self.pos1 = ResidualDepthwise(channels, 3)
        self.norm1 = LayerNorm2d(channels)
        self.ssm = SS2D(channels)
        self.pos2 = ResidualDepthwise(channels, 3)
        self.norm2 = LayerNorm2d(channels)
        self.mlp = ConvFFN(channels, mlp_hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        x = self.pos1(x)
        x = x + self.ssm(self.norm1(x)).to(x.dtype)
        x = self.pos2(x)
        return x + self.mlp(self.norm2(x))


class MMSCopE(nn.Module):
    """Context of three scales, gathered at stride 32 by one scan, added to every stage; logits at stride 8.

    Args:
        channels: of the four maps, strides 4 to 32.
        num_classes: of the logits.
        config: widths.
    """

    stride = 8

    def __init__(self, channels: tuple[int, ...], *, num_classes: int, config: SegMANConfig) -> None:
        super().__init__()
        width, projected = config.width, config.projection_width
        self.projections = nn.ModuleList(nn.Conv2d(c, projected, 1) for c in channels[1:])
        self.fuse = ConvNormReLU(3 * projected, width)
        self.short_path = ConvNormReLU(width, width)
        self.image_pool = PooledConv(width, width)
        self.half_down = ConvNormReLU(width, 2 * width, 3, stride=2)
        self.half_reduce = ConvNormReLU(8 * width, width)
        self.quarter_down = ConvNormReLU(width, 4 * width, 5, stride=4, padding=1)
        self.quarter_reduce = ConvNormReLU(4 * width, width)
        self.full_reduce = ConvNormReLU(16 * width, width)
        self.block = ScanBlock(3 * width, config.mlp_ratio * 3 * width)
        self.query = ConvNormReLU(3 * width, projected)
        self.merge = ConvNormReLU(5 * width + 3 * projected, width)
        self.classifier = Classifier(width, num_classes, drop_rate=config.drop_rate)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps of strides 4, 8, 16, 32 -> logits (B, classes, H / 8, W / 8)."""
        maps = features[1:]
        stages = [resize_to(project(x), maps[0]) for project, x in zip(self.projections, maps, strict=True)]
        fused = self.fuse(torch.cat(stages[::-1], dim=1))
        context = self.context(fused)
        query = self.query(context)
        parts = [self.short_path(fused), self.image_pool(fused), context, *(stage + query for stage in stages)]
        return self.classifier(self.merge(torch.cat(parts, dim=1)))

    def context(self, fused: Tensor) -> Tensor:
        """(B, E, H / 8, W / 8) -> (B, 3 E, H / 8, W / 8).

        Three lossless or nearly lossless ways to stride 32 need sides that are multiples of 4; others are padded, and
        the result is cut.
        """
        padded = pad_to_multiple(fused, 4)
        full = self.full_reduce(pixel_unshuffle(padded, 4))
        half = self.half_reduce(pixel_unshuffle(self.half_down(padded), 2))
        quarter = self.quarter_reduce(self.quarter_down(padded))
        context = self.block(torch.cat((full, half, quarter), dim=1))
        return resize_to(context, padded)[:, :, : fused.shape[2], : fused.shape[3]]

    def released_names(self) -> ReleasedNames:
        """Return, for each tensor, its name in released files, after ``decode_head.``, and its change of shape."""
        return names_by_rules(self.state_dict(), MMSCOPE_RULES)
