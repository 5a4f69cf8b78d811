"""What an exported detector computes: a fixed number of detections of every image, those that are not there as zeros.

`own_detections` lets the detector compute them, `tensor_detections` makes them of the detector's parts without lists
of changing lengths, for a program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from a2mamba.detection import Detector
from a2mamba.detection.roi_heads import Pool, RoIHeads
from a2mamba.detection.rpn import RegionProposals
from a2mamba.export import regions


@dataclass(frozen=True)
class Padded:
    """D detections of each of B images, best first, as many of them real as ``count`` says; the others are zero."""

    boxes: Tensor
    """float32 (B, D, 4), x0 y0 x1 y1 in pixels of the input"""
    labels: Tensor
    """int64 (B, D), from 1"""
    scores: Tensor
    """float32 (B, D)"""
    masks: Tensor | None
    """float32 (B, D, S, S), probabilities in the cells of the boxes; None from a detector of boxes only"""
    count: Tensor
    """int64 (B,)"""

    def outputs(self) -> tuple[Tensor, ...]:
        """Return those that are there, in the order of `detection_names`."""
        every = (getattr(self, field.name) for field in fields(self))
        return tuple(each for each in every if each is not None)


def detection_names(detector: Detector) -> list[str]:
    """Return the names of a detector's outputs."""
    return [name for name in (field.name for field in fields(Padded)) if name != "masks" or detector.config.masks]


def own_detections(detector: Detector, batch: Tensor) -> Padded:
    """Return what the detector finds in normalized images (B, C, H, W), its own way, padded."""
    sizes = [(batch.shape[2], batch.shape[3])] * len(batch)
    levels = detector.levels(batch)
    proposals, _ = detector.rpn(levels, ImageList(batch, sizes))
    found = detector.roi_heads.detect(levels[:-1], proposals, sizes)
    most = detector.config.roi.detections_per_image

    def padded(name: str) -> Tensor:
        parts = [each[name] for each in found]
        return torch.stack([F.pad(x, (0, 0) * (x.dim() - 1) + (0, most - len(x))) for x in parts])

    masks = padded("masks")[:, :, 0] if detector.config.masks else None
    count = torch.tensor([len(each["scores"]) for each in found])
    return Padded(padded("boxes"), padded("labels"), padded("scores"), masks, count)


def tensor_detections(detector: Detector, batch: Tensor) -> Padded:
    """Return the same by operations whose shapes depend on nothing but the input's."""
    size = (batch.shape[2], batch.shape[3])
    levels = detector.levels(batch)
    proposals, there = _propose(detector.rpn, levels, size)
    heads, levels = detector.roi_heads, [level.contiguous() for level in levels[:-1]]
    boxes, labels, scores = _select(heads, levels, proposals, there, size)
    real = scores > regions.SUPPRESSED
    count = real.sum(1)
    boxes, scores = boxes * real[..., None], scores * real
    masks = None
    if heads.mask_heads():
        cells = heads.mask_probabilities(
            _pooling(heads, levels, boxes.shape[1]), [boxes.flatten(0, 1)], labels.flatten()
        )
        masks = cells.view(*labels.shape, *cells.shape[2:]) * real[..., None, None]
    return Padded(boxes, (labels + 1) * real, scores, masks, count)


def _propose(rpn: RegionProposals, levels: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return proposals (B, P, 4), and which of them are there, (B, P)."""
    config = rpn.config
    anchors, objectness, regression = rpn.predict(levels, size)
    kept, found = [], []
    for score, boxes in rpn.candidates(objectness, regression, anchors):
        boxes = clip_boxes_to_image(boxes, size)
        valid = _large(boxes, config.min_box_size) & (score >= config.score_threshold)
        score = torch.where(valid, score, regions.SUPPRESSED)
        kept.append(regions.suppress(boxes, score, config.nms_iou, config.post_nms_test))
        found.append(boxes)
    scores, boxes = torch.cat(kept, dim=1), torch.cat(found, dim=1)
    scores, index = scores.topk(min(config.post_nms_test, scores.shape[1]), dim=1)
    there = scores > regions.SUPPRESSED
    # Those that are not there are empty: nothing is pooled for them.
    return boxes.gather(1, index[..., None].expand(-1, -1, 4)) * there[..., None], there


def _select(
    heads: RoIHeads, levels: list[Tensor], proposals: Tensor, there: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best detections: boxes (B, D, 4), classes (B, D), scores (B, D), SUPPRESSED where there are fewer."""
    config, (batch, count) = heads.config, there.shape
    scores, decoded = heads.score(_pooling(heads, levels, count), [proposals.flatten(0, 1)], [size])
    # (B K, P): suppression is within each class of each image.
    classes = scores.shape[1]
    scores = scores.view(batch, count, classes).transpose(1, 2)
    boxes = clip_boxes_to_image(decoded, size).view(batch, count, classes, 4).transpose(1, 2)
    valid = there[:, None] & (scores > config.score_threshold) & _large(boxes, config.min_box_size)
    scores = torch.where(valid, scores, regions.SUPPRESSED)
    most = config.detections_per_image
    kept = regions.suppress(boxes.flatten(0, 1), scores.flatten(0, 1), config.nms_iou, most).view(batch, -1)
    kept = F.pad(kept, (0, max(0, most - kept.shape[1])), value=regions.SUPPRESSED)
    best, index = kept.topk(most, dim=1)
    index = index.clamp(max=classes * count - 1)
    return boxes.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, 4)), index // count, best


def _large(boxes: Tensor, least: float) -> Tensor:
    """Which boxes (..., 4) have no side shorter than this."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(dim=-1)


def _pooling(heads: RoIHeads, levels: list[Tensor], count: int) -> Pool:
    """Return a function ([boxes (B count, 4)], cells) -> features (B count, C, cells, cells)."""

    def pool(boxes: Sequence[Tensor], cells: int) -> Tensor:
        config = heads.config
        return regions.pool(
            levels, boxes[0].unflatten(0, (-1, count)), heads.strides, cells, config.sampling_ratio, config.aligned
        )

    return pool
