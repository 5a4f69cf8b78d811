"""Mask R-CNN and Cascade Mask R-CNN on any backbone that declares its maps.

Shapes: B images of a batch, padded to H x W; level i of the pyramid has stride 4 * 2 ** i.

    images -> normalized batch (B, 3, H, W) -> backbone: 4 maps -> pyramid: 5 levels
           -> proposals (from all 5) -> boxes and masks (from the first 4) -> back to the images' own sizes
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes

from a2mamba.backbone import Pyramid
from a2mamba.detection.config import DetectorConfig
from a2mamba.detection.masks import paste_masks
from a2mamba.detection.preprocess import Preprocess, check_images, check_targets
from a2mamba.detection.pyramid import FeaturePyramid
from a2mamba.detection.roi_heads import RoIHeads
from a2mamba.detection.rpn import RegionProposals
from a2mamba.layers import OutputNorms

UNDECAYED = re.compile("absolute_pos_embed|relative_position_bias_table|norm")
"""What the protocol's code looks for in a parameter's name, to spare it weight decay."""

UNDECAYED_OF_OURS = re.compile(r"stages\.\d+\.blocks\.\d+\.(norm1|norm2|mixer\.norm)\.")
"""The same for our backbones, whose norms are not all called so in the original code."""


class Detector(nn.Module):
    """Finds objects, their boxes and, unless ``config.masks`` is off, their masks, by torchvision's contract.

    In training it maps images and targets to a dictionary of losses, in evaluation images to detections. Labels are
    1 to ``num_classes`` on the outside, as in torchvision, where 0 is the background. Inside, classes are 0 to
    ``num_classes`` - 1 and the background is the last: that is the order of the classifier's rows.

    Args:
        backbone: maps (B, C, H, W) to a list of maps and describes them in ``feature_info``: one of ours, or a timm
            model made with ``features_only=True``. Strides are powers of two, each twice the one before.
        num_classes: number of classes without the background.
        config: everything else; Mask R-CNN by the paper's protocol by default.

    Raises:
        ValueError: for fewer than one class, a backbone that does not declare its maps or has other strides.
    """

    def __init__(self, backbone: nn.Module, *, num_classes: int, config: DetectorConfig | None = None) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: expected 1 or more, the background not counted")
        self.config = config = config or DetectorConfig.mask_rcnn()
        self.num_classes = num_classes
        channels, strides = declared_maps(backbone)
        self.preprocess = Preprocess(config)
        self.backbone = backbone
        self.output_norms = OutputNorms(channels) if config.output_norms else None
        self.fpn = FeaturePyramid(channels, config.fpn_width, init=config.fpn_init)
        self.rpn = RegionProposals(
            config.fpn_width,
            (*strides, 2 * strides[-1]),
            config.rpn,
            clamp_both_sides=config.roi.clamp_both_sides,
        )
        self.roi_heads = RoIHeads(config.fpn_width, num_classes, strides, config.roi, masks=config.masks)
        if config.freeze_backbone_norm:
            for norm in self._backbone_norms():
                norm.requires_grad_(False)
            self.train(self.training)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None, *, paste: bool = True
    ) -> Any:
        """Return losses in training, detections in evaluation.

        Args:
            images: (3, h, w) each, RGB in [0, 1], of any sizes.
            targets: for training, of each image: boxes (N, 4) float, x1 < x2 and y1 < y2 in pixels; labels (N,) int64
                from 1 to ``num_classes``; with ``config.masks``, masks (N, h, w) uint8 or bool. N may be 0. Not read in
                evaluation.
            paste: in evaluation, put the masks in their places in the image. That takes 4 h w bytes a detection;
                ``paste=False`` leaves them in the cells of their boxes, for
                :func:`~a2mamba.detection.masks.iter_masks` or
                :func:`~a2mamba.detection.masks.paste_masks` with a threshold. Without effect in training.

        Returns:
            In training, float32 scalars: "loss_objectness", "loss_rpn_box_reg", and of each stage "loss_classifier",
            "loss_box_reg" and, with ``config.masks``, "loss_mask"; their sum is to be minimized. In evaluation, for
            each image, best first: boxes (D, 4) in pixels of the image as it was given, labels (D,) int64, scores (D,),
            and with ``config.masks`` masks: float32 probabilities (D, 1, h, w), or (D, 1, S, S) without ``paste``.

        Raises:
            ValueError: for images and targets of another form; the message names the image.
        """
        check_images(images, len(self.config.image_mean))
        if self.training:
            check_targets(images, targets, self.num_classes, masks=self.config.masks)
        batch, resized_targets = self.preprocess(list(images), list(targets) if self.training and targets else None)
        levels = self.levels(batch.tensors)
        if self.training:
            proposals, losses = self.rpn(levels, batch, resized_targets)
            return losses | self.roi_heads.losses(levels[:-1], proposals, batch.image_sizes, resized_targets)
        proposals, _ = self.rpn(levels, batch)
        detections = self.roi_heads.detect(levels[:-1], proposals, batch.image_sizes)
        return self._in_image_pixels(detections, images, batch, paste)

    def levels(self, batch: Tensor) -> list[Tensor]:
        """Normalized batch (B, 3, H, W) -> the pyramid's levels (B, width, H_i, W_i), the pooled one last."""
        maps = backbone_maps(self.backbone, batch)
        return self.fpn.levels(maps if self.output_norms is None else self.output_norms(maps))

    def train(self, mode: bool = True) -> Detector:
        """Switch to training, or with ``mode=False`` to evaluation; frozen norms stay in evaluation."""
        super().train(mode)
        if self.config.freeze_backbone_norm:
            for norm in self._backbone_norms():
                norm.eval()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's activations in the backward.

        Raises:
            ValueError: if the backbone cannot.
        """
        switch = getattr(self._pyramid() or self.backbone, "set_grad_checkpointing", None)
        if switch is None:
            raise ValueError(f"{type(self.backbone).__name__} has no gradient checkpointing")
        switch(enable)

    def synchronize_norms(self) -> None:
        """Let the batch norms of the box heads share their statistics among processes: the cascade's protocol.

        For GPUs; call it before DistributedDataParallel. The state dict keeps its names.
        """
        self.roi_heads = nn.SyncBatchNorm.convert_sync_batchnorm(self.roi_heads)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that the protocol does not decay; all others are, vectors too.

        The protocol spares every parameter whose name in the original code contains "norm" (or the names of Swin's
        position tables). For A2Mamba those are norm1, norm2 and the mixers' first norm; the batch norms, and the one
        before the projection, have other names there, and so have the cascade's. Norms between backbone and pyramid
        are spared too. Give this set to
        ``engine.parameter_groups`` as ``no_decay`` with ``vectors_decay=True``.
        """
        spared = UNDECAYED if self._pyramid() is None else UNDECAYED_OF_OURS
        names = {f"backbone.{name}" for name, _ in self.backbone.named_parameters() if spared.search(name)}
        return names | {name for name, _ in self.named_parameters() if name.startswith("output_norms.")}

    def _pyramid(self) -> Pyramid | None:
        """Return our network where the backbone is or holds one, as a feature extractor does."""
        return next((module for module in self.backbone.modules() if isinstance(module, Pyramid)), None)

    def _backbone_norms(self) -> list[nn.Module]:
        return [module for module in self.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def _in_image_pixels(
        self, detections: list[dict[str, Tensor]], images: Sequence[Tensor], batch: ImageList, paste: bool
    ) -> list[dict[str, Tensor]]:
        for detection, image, size in zip(detections, images, batch.image_sizes, strict=True):
            original = (image.shape[-2], image.shape[-1])
            detection["boxes"] = resize_boxes(detection["boxes"], size, original)
            if paste and self.config.masks:
                detection["masks"] = paste_masks(
                    detection["masks"], detection["boxes"], original, paste=self.config.paste
                )
        return detections


def declared_maps(backbone: nn.Module) -> tuple[list[int], list[int]]:
    """Return channels and strides of a backbone's maps, finest first.

    Raises:
        ValueError: if it does not say, or if strides are not powers of two that double.
    """
    info = getattr(backbone, "feature_info", None)
    if info is None:
        raise ValueError(
            f"{type(backbone).__name__} declares no feature_info; make timm models with features_only=True"
        )
    entries = info if isinstance(info, list) else info.get_dicts()
    channels, strides = [int(x["num_chs"]) for x in entries], [int(x["reduction"]) for x in entries]
    doubled = all(coarse == 2 * fine for fine, coarse in pairwise(strides))
    if not strides or strides[0] & (strides[0] - 1) or not doubled:
        raise ValueError(
            f"{type(backbone).__name__} has maps of strides {strides}; expected powers of two that double, as 4, 8, "
            "16, 32: choose them with out_indices"
        )
    return channels, strides


def backbone_maps(backbone: nn.Module, batch: Tensor) -> list[Tensor]:
    """Return the maps (B, C_i, H_i, W_i) of a batch, finest first."""
    if isinstance(backbone, Pyramid):
        maps: list[Tensor] = backbone.forward_intermediates(batch, intermediates_only=True)
        return maps
    maps = list(backbone(batch))
    if str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC"):
        return [x.permute(0, 3, 1, 2) for x in maps]
    return maps
