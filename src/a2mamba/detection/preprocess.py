"""Between the images that a detector is given and the batch that it computes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes

from a2mamba.detection.config import DetectorConfig


def resized(height: int, width: int, config: DetectorConfig) -> tuple[int, int]:
    """Return the size with the short side at ``min_size``, or the long one at ``max_size`` where it would exceed it."""
    scale = min(config.min_size / min(height, width), config.max_size / max(height, width))
    half = 0.5 if config.resize_rounding == "nearest" else 0.0
    # The division may fall a hair short of an integer that it means, as 800 / 3 * 3 does.
    new = [max(1, math.floor(side * scale + half)) for side in (height, width)]
    return new[0], new[1]


class Preprocess(GeneralizedRCNNTransform):
    """Normalize, resize and pad: torchvision's transform with the protocol's sizes.

    Args:
        config: sizes and statistics.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(
            config.min_size,
            config.max_size,
            list(config.image_mean),
            list(config.image_std),
            size_divisible=config.size_divisor,
        )
        self.config = config

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(C, H, W) -> (C, H', W') bilinear; boxes and masks (nearest) of the target follow.

        Training images come as they are unless ``resize_in_training`` is set.
        """
        if self.training and not self.config.resize_in_training:
            return image, target
        old: tuple[int, int] = (image.shape[-2], image.shape[-1])
        new = resized(*old, self.config)
        if new == old:
            return image, target
        image = F.interpolate(image[None], size=new, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], old, new)
            if self.config.masks:
                target["masks"] = F.interpolate(target["masks"][:, None].float(), size=new)[:, 0].byte()
        return image, target


def check_images(images: Sequence[Tensor], channels: int) -> None:
    """Raise ValueError for anything but a list of floating-point images (channels, H, W)."""
    if isinstance(images, Tensor) or not all(isinstance(image, Tensor) for image in images):
        raise ValueError(f"expected a list of image tensors, got {type(images).__name__}; use list(batch)")
    if not images:
        raise ValueError("expected at least one image, got none")
    for i, image in enumerate(images):
        if image.dim() != 3 or image.shape[0] != channels or min(image.shape[1:]) < 1:
            raise ValueError(f"image {i}: expected ({channels}, height, width), got {tuple(image.shape)}")
        if not image.is_floating_point():
            raise ValueError(f"image {i}: expected floating point in [0, 1], got {image.dtype}; divide by 255")


def check_targets(
    images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None, num_classes: int, *, masks: bool
) -> None:
    """Raise ValueError, one line that names the image, for targets that cannot be learned from."""
    if targets is None or len(targets) != len(images):
        count = "none" if targets is None else len(targets)
        raise ValueError(f"training needs one target for each of {len(images)} images, got {count}")
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        missing = [name for name in ("boxes", "labels", *(["masks"] if masks else [])) if name not in target]
        if missing:
            advice = (
                "boxes, labels and masks; detectors made with masks=False need no masks"
                if masks
                else "boxes and labels"
            )
            raise ValueError(f"target {i}: {', '.join(missing)} missing; expected {advice}")
        boxes, labels = target["boxes"], target["labels"]
        if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise ValueError(f"target {i}: boxes must be floating point (N, 4), got {boxes.dtype} {tuple(boxes.shape)}")
        if labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"target {i}: labels must be int64 ({len(boxes)},), got {labels.dtype} {tuple(labels.shape)}"
            )
        if masks:
            _check_masks(i, target["masks"], (len(boxes), *image.shape[1:]))
        bad = ~(boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1))
        wrong = (labels < 1) | (labels > num_classes)
        if not (bad | wrong).any():
            continue
        j = int((bad | wrong).nonzero()[0])
        if bad[j]:
            raise ValueError(
                f"image {i}: box {j} is {[round(x, 3) for x in boxes[j].tolist()]}; expected finite numbers with "
                "x1 < x2 and y1 < y2"
            )
        raise ValueError(f"image {i}: label {j} is {int(labels[j])}; expected 1 to {num_classes}")


def _check_masks(i: int, masks: Tensor, expected: tuple[int, ...]) -> None:
    if masks.shape != expected or masks.dtype not in (torch.uint8, torch.bool):
        raise ValueError(f"target {i}: masks must be uint8 or bool {expected}, got {masks.dtype} {tuple(masks.shape)}")
