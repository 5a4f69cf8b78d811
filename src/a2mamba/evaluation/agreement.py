"""How boxes that were found agree with those that are there, image by image, to look at the worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from a2mamba.evaluation.coco_detections import Detections


class ImageAgreement(NamedTuple):
    """How truth and prediction of one image agree: objects found and missed, detections of nothing."""

    image_id: int
    found: int
    missed: int
    false_positives: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0 to 1; 1 for an image without objects and detections."""
        errors = self.missed + self.false_positives
        return 2 * self.found / (2 * self.found + errors) if self.found or errors else 1.0


def image_agreement(
    image_id: int,
    detections: Detections,
    objects: Sequence[Mapping[str, Any]],
    category_ids: Sequence[int],
    *,
    score: float,
    iou: float,
) -> ImageAgreement:
    """Return how an image's detections agree with its objects.

    Args:
        image_id: of the result.
        detections: of the image.
        objects: of the image, crowds among them, as `CocoTruth.objects` gives them.
        category_ids: that of label k at position k - 1.
        score: lowest score of a detection that counts.
        iou: lowest overlap of a hit.
    """
    plain = [entry for entry in objects if not entry["iscrowd"]]
    crowds = [entry for entry in objects if entry["iscrowd"]]
    overlaps = _overlaps(detections.boxes, [entry["bbox"] for entry in plain], crowd=False)
    in_crowd = _overlaps(detections.boxes, [entry["bbox"] for entry in crowds], crowd=True)
    free = np.ones(len(plain), dtype=bool)
    categories = np.array([entry["category_id"] for entry in plain], dtype=np.int64)
    crowd_categories = np.array([entry["category_id"] for entry in crowds], dtype=np.int64)
    false_positives = 0
    for place in np.argsort(-detections.scores, kind="stable").tolist():
        if detections.scores[place] < score:
            break
        category = category_ids[detections.labels[place] - 1]
        candidates = np.where(free & (categories == category), overlaps[place], -1.0)
        if candidates.size and candidates.max() >= iou:
            free[candidates.argmax()] = False
        elif not (in_crowd[place][crowd_categories == category] >= iou).any():
            false_positives += 1
    missed = int(free.sum())
    return ImageAgreement(image_id, len(plain) - missed, missed, false_positives)


def _overlaps(boxes: np.ndarray, objects: list[list[float]], *, crowd: bool) -> np.ndarray:
    """IoU of (N, 4) and M boxes x y w h, (N, M); for crowds the share of the first box that lies inside."""
    others = np.array(objects, dtype=np.float64).reshape(-1, 4)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    area = boxes[:, 2:].prod(axis=1)[:, None]
    union = area if crowd else area + others[:, 2:].prod(axis=1) - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)
