"""Boxes as x1, y1, x2, y2 in pixels: deltas, anchors, matching, and the level a box is looked up in."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder
from torchvision.ops import box_iou
from torchvision.ops.poolers import LevelMapper

DELTA_LIMIT = math.log(1000 / 16)
"""Largest logarithmic change of a width or height: a factor of 62.5."""

NEGATIVE = -1
"""Match of a box that overlaps no object enough: background."""
IGNORED = -2
"""Match of a box between the thresholds: nothing is learned from it."""

MATCH_CHUNK = 2**24
"""Pairs of (object, box) whose overlap is held at a time."""


class BoxCoder(TorchvisionBoxCoder):
    """Between boxes and their deltas from reference boxes: (dx / w, dy / h, log dw, log dh) in units of ``stds``.

    Args:
        stds: units of the four deltas.
        clamp_both_sides: limit the last two to +-ln(1000 / 16) before decoding, instead of from above only.
    """

    def __init__(self, stds: Sequence[float], *, clamp_both_sides: bool) -> None:
        super().__init__(weights=tuple(1 / std for std in stds), bbox_xform_clip=DELTA_LIMIT)
        self.clamp_both_sides = clamp_both_sides

    def encode_boxes(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Return the deltas (N, 4) that lead from ``references`` (N, 4) to ``boxes`` (N, 4), float32."""
        return self.encode_single(boxes.float(), references.float())

    def decode_boxes(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Return the boxes (N, K, 4), float32, that K groups of deltas (N, K, 4) make of ``references`` (N, 4)."""
        deltas = deltas.float()
        if self.clamp_both_sides:
            width, height = (-DELTA_LIMIT * weight for weight in self.weights[2:])
            shift, log_width, log_height = deltas.split((2, 1, 1), dim=-1)
            deltas = torch.cat((shift, log_width.clamp(min=width), log_height.clamp(min=height)), dim=-1)
        return self.decode_single(deltas.flatten(1), references).unflatten(1, (-1, 4))


def base_anchors(size: float, aspect_ratios: Sequence[float], *, rounded: bool) -> list[tuple[float, ...]]:
    """Return the anchors around the origin: area ``size`` squared, one for each height over width."""
    anchors = []
    for ratio in aspect_ratios:
        height, width = size * math.sqrt(ratio), size / math.sqrt(ratio)
        anchor = (-width / 2, -height / 2, width / 2, height / 2)
        anchors.append(tuple(float(round(side)) for side in anchor) if rounded else anchor)
    return anchors


def anchor_grid(
    base: Sequence[Sequence[float]], map_size: Sequence[int], strides: Sequence[int], device: torch.device
) -> Tensor:
    """Return one level's anchors (H * W * A, 4), float32, centered on (column * stride, row * stride).

    Args:
        base: A anchors around the origin.
        map_size: H, W of the level's map.
        strides: vertical and horizontal, in pixels.
        device: of the result.
    """
    y = torch.arange(map_size[0], device=device, dtype=torch.float32) * strides[0]
    x = torch.arange(map_size[1], device=device, dtype=torch.float32) * strides[1]
    centers = torch.cartesian_prod(y, x).flip(1).repeat(1, 2)
    return (centers[:, None] + torch.tensor(base, device=device)).flatten(0, 1)


def inside(boxes: Tensor, image_size: Sequence[int], tolerance: float) -> Tensor:
    """Return which boxes (N, 4) leave an image (height, width) by no more than ``tolerance`` pixels, as (N,) bool."""
    height, width = image_size
    return (
        (boxes[:, 0] >= -tolerance)
        & (boxes[:, 1] >= -tolerance)
        & (boxes[:, 2] < width + tolerance)
        & (boxes[:, 3] < height + tolerance)
    )


def match(
    objects: Tensor,
    boxes: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality_iou: float | None = None,
    low_quality_overwrites: bool = True,
) -> Tensor:
    """Assign an object to every box, by overlap.

    Memory is bounded for any number of objects: their overlaps are worked off in groups of rows.

    Args:
        objects: (M, 4), M may be 0.
        boxes: (N, 4).
        positive_iou: from this overlap on a box has the object it overlaps most.
        negative_iou: a box that overlaps all objects less than this is background.
        low_quality_iou: the boxes that overlap an object most have one too, if they overlap it this much; None: not.
        low_quality_overwrites: those have that object (the last one, of several); False: the one they overlap most.

    Returns:
        (N,) int64: the object's index, NEGATIVE, or IGNORED between the thresholds.
    """
    count = len(boxes)
    if len(objects) == 0:
        return torch.full((count,), NEGATIVE, dtype=torch.int64, device=boxes.device)
    best = boxes.new_zeros(count)
    nearest = torch.zeros(count, dtype=torch.int64, device=boxes.device)
    claimed = torch.full_like(nearest, NEGATIVE)
    rows = max(1, MATCH_CHUNK // max(1, count))
    for start in range(0, len(objects) if count else 0, rows):
        overlaps = box_iou(objects[start : start + rows], boxes)
        value, index = overlaps.max(dim=0)
        nearest = torch.where(value > best, index + start, nearest)
        best = torch.maximum(best, value)
        if low_quality_iou is not None:
            highest = overlaps.amax(dim=1, keepdim=True)
            # No overlap is 2: an object whose best box is below the floor claims none.
            rows_of, columns = (overlaps == torch.where(highest >= low_quality_iou, highest, 2)).nonzero(as_tuple=True)
            claimed.scatter_reduce_(0, columns, rows_of + start, "amax")
    matches = torch.where(best >= positive_iou, nearest, torch.where(best < negative_iou, NEGATIVE, IGNORED))
    return torch.where(claimed >= 0, claimed if low_quality_overwrites else nearest, matches)


def box_levels(boxes: Sequence[Tensor], strides: Sequence[int]) -> Tensor:
    """Return the level of each box of all images: floor(log2(sqrt(w * h) / 56)) for strides 4 to 32, clamped.

    Args:
        boxes: (N_i, 4) of each image.
        strides: of the levels, each twice the one before; the feature pyramid's rule puts 224 pixels at stride 16.

    Returns:
        (sum of N_i,) int64, 0 for the finest level.
    """
    exponents = [int(math.log2(stride)) for stride in strides]
    levels: Tensor = LevelMapper(exponents[0], exponents[-1])(list(boxes))
    return levels
