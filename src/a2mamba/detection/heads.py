"""What a stage of the second half computes of a box's features: class logits, box deltas, a mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from a2mamba.detection.boxes import box_levels
from a2mamba.detection.config import RoIConfig


def pool_boxes(
    levels: Sequence[Tensor],
    boxes: Sequence[Tensor],
    strides: Sequence[int],
    *,
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign each box on the level of its size.

    Args:
        levels: (B, C, H_i, W_i), finest first, contiguous: the operator copies them otherwise.
        boxes: (N_b, 4) of each image, in pixels of the batch.
        strides: of the levels in pixels.
        size: cells an axis.
        sampling_ratio: points an axis in a cell, 0 for as many as it is pixels wide.
        aligned: with the half-pixel shift.

    Returns:
        (sum of N_b, C, size, size) in the levels' dtype, images one after another.
    """
    images = torch.cat([box.new_full((len(box), 1), i) for i, box in enumerate(boxes)])
    rois = torch.cat((images, torch.cat(list(boxes))), dim=1)
    which = box_levels(boxes, strides)
    out = levels[0].new_zeros(len(rois), levels[0].shape[1], size, size)
    for i, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        chosen = (which == i).nonzero().squeeze(1)
        pooled = roi_align(level, rois[chosen].to(level.dtype), size, 1 / stride, sampling_ratio, aligned)
        out[chosen] = pooled.to(out.dtype)
    return out


class BoxNorm(nn.BatchNorm2d):
    """Batch norm that lets a batch without boxes pass, which has no statistics."""

    synchronizable = True
    """the engine's norm over several processes lets it pass too, see `engine.synchronize_norms`"""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape; N may be 0."""
        if len(input) == 0:
            return input * self.weight[:, None, None] + self.bias[:, None, None]
        return super().forward(input)


class BoxHead(nn.Module):
    """Convolutions with batch norm and ReLU, linear layers with ReLU, then class logits and deltas for each class.

    Args:
        channels: of the input.
        num_classes: K; the background is the last of K + 1 logits.
        config: numbers; the head has ``box_convs`` convolutions without bias and ``box_fcs`` linear layers.
    """

    def __init__(self, channels: int, num_classes: int, config: RoIConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.norms = nn.ModuleList()
        for _ in range(config.box_convs):
            self.convs.append(nn.Conv2d(channels, config.box_conv_width, 3, padding=1, bias=False))
            self.norms.append(BoxNorm(config.box_conv_width))
            channels = config.box_conv_width
        inputs = channels * config.box_pool_size**2
        self.fcs = nn.ModuleList()
        for _ in range(config.box_fcs):
            self.fcs.append(nn.Linear(inputs, config.box_fc_width))
            inputs = config.box_fc_width
        self.class_logits = nn.Linear(inputs, num_classes + 1)
        self.box_deltas = nn.Linear(inputs, 4 * num_classes)
        self._init_weights()

    @property
    def conv_norms(self) -> tuple[tuple[str, str], ...]:
        """The convolutions and the norms behind them, by name: what inference can fold."""
        return tuple((f"convs.{i}", f"norms.{i}") for i in range(len(self.convs)))

    def _init_weights(self) -> None:
        """Kaiming for convolutions, Xavier for hidden layers, small normal numbers for the outputs, zero biases."""
        for module in (*self.convs, *self.fcs):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            else:
                assert isinstance(module, nn.Linear)
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for linear, std in ((self.class_logits, 0.01), (self.box_deltas, 0.001)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, channels, P, P) -> logits (N, K + 1) and deltas (N, K, 4)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        x = x.flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        return self.class_logits(x), self.box_deltas(x).unflatten(1, (-1, 4))


class MaskHead(nn.Module):
    """3 x 3 convolutions with ReLU, a transposed one that doubles the size, ReLU, and a logit for each class.

    Args:
        channels: of the input.
        num_classes: K.
        config: numbers; the head has ``mask_convs`` convolutions of ``mask_width`` channels.
    """

    def __init__(self, channels: int, num_classes: int, config: RoIConfig) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for _ in range(config.mask_convs):
            self.convs.append(nn.Conv2d(channels, config.mask_width, 3, padding=1))
            channels = config.mask_width
        self.deconv = nn.ConvTranspose2d(channels, config.mask_width, 2, stride=2)
        self.logits = nn.Conv2d(config.mask_width, num_classes, 1)
        for module in (*self.convs, self.deconv, self.logits):
            assert isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, P, P) -> logits (N, K, 2 P, 2 P)."""
        for conv in self.convs:
            x = F.relu(conv(x))
        return self.logits(F.relu(self.deconv(x)))
