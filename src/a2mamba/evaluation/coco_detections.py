"""What was found in an image, checked and small: boxes and scores in float64, masks as COCO's run lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from a2mamba.evaluation.coco_library import coco_library

_MASK_THRESHOLD = 0.5


class Detections(NamedTuple):
    """Of one image. boxes: float64 (N, 4), x y w h; labels: int64 (N,), from 1; scores: float64 (N,); masks: N or 0."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: list[str]

    def tensors(self, mask_size: tuple[int, int] | None) -> dict[str, Tensor]:
        """Return boxes (N, 4) x0 y0 x1 y1, labels, scores and, of this height and width, masks uint8 (N, H, W)."""
        corners = np.concatenate((self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]), axis=1)
        output = {
            "boxes": torch.from_numpy(corners).float(),
            "labels": torch.from_numpy(self.labels.copy()),
            "scores": torch.from_numpy(self.scores).float(),
        }
        if mask_size is not None:
            masks = torch.zeros((len(self.masks), *mask_size), dtype=torch.uint8)
            for place, counts in enumerate(self.masks):
                drawn = coco_library().mask.decode({"size": list(mask_size), "counts": counts})
                masks[place] = torch.from_numpy(np.ascontiguousarray(drawn))
            output["masks"] = masks
        return output


def checked_detections(
    image_id: int, output: Mapping[str, Tensor], categories: int, mask_size: tuple[int, int] | None
) -> Detections:
    """Return what a network found in an image.

    Args:
        image_id: for messages.
        output: as `CocoMetric.update` takes one.
        categories: labels go from 1 to this number.
        mask_size: height and width of the masks; None where they are not evaluated.

    Raises:
        ValueError: wrong shapes, labels out of range or values that are not finite.
    """
    wanted = ["boxes", "labels", "scores"] + ([] if mask_size is None else ["masks"])
    missing = [name for name in wanted if name not in output]
    if missing:
        raise ValueError(f"the output for image {image_id} has no {', '.join(missing)}; found {', '.join(output)}")
    boxes = output["boxes"].detach().cpu().double().numpy()
    scores = output["scores"].detach().cpu().double().numpy()
    labels = output["labels"].detach().cpu().numpy()
    count = len(boxes)
    if boxes.shape != (count, 4) or scores.shape != (count,) or labels.shape != (count,):
        raise ValueError(
            f"the output for image {image_id} has boxes {boxes.shape}, labels {labels.shape} and scores "
            f"{scores.shape}; expected (N, 4), (N,) and (N,)"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise ValueError(f"the output for image {image_id} has boxes or scores that are not finite")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise ValueError(f"the output for image {image_id} has boxes with x1 < x0 or y1 < y0")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"the output for image {image_id} has labels of {labels.dtype}; expected integers")
    if count and not 1 <= labels.min() <= labels.max() <= categories:
        wrong = labels[(labels < 1) | (labels > categories)][0]
        raise ValueError(f"the output for image {image_id} has the label {wrong}; expected 1 to {categories}")
    boxes = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
    masks = [] if mask_size is None else _encoded(image_id, output["masks"], (count, *mask_size))
    return Detections(boxes, labels.astype(np.int64), scores, masks)


def _encoded(image_id: int, masks: Tensor, shape: tuple[int, int, int]) -> list[str]:
    """Run lengths of the masks as COCO's strings."""
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if tuple(masks.shape) != shape:
        raise ValueError(
            f"the output for image {image_id} has masks {tuple(masks.shape)}; expected {shape}, "
            f"the size of the original image"
        )
    inside = (masks.detach() >= _MASK_THRESHOLD if masks.is_floating_point() else masks != 0).to(torch.uint8)
    # The library wants columns one after the other, the objects last.
    columns = np.asfortranarray(inside.cpu().numpy().transpose(1, 2, 0))
    encoded = coco_library().mask.encode(columns) if len(masks) else []
    return [_text(runs["counts"]) for runs in encoded]


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
