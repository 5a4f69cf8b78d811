"""The objects in an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from PIL import Image
from torch import Tensor

from a2mamba.detection import paste_masks
from a2mamba.tasks.prediction import Prediction
from a2mamba.visualize import draw_objects

_DRAWN_SIDE = 480  # pixels; smaller images are enlarged, so that labels have room
_MASK_THRESHOLD = 0.5


@dataclass(frozen=True, repr=False)
class DetectionPrediction(Prediction):
    """Objects, best first; all tensors are on the CPU."""

    boxes: Tensor
    """float32 (N, 4), x0 y0 x1 y1 in pixels of the image"""
    labels: Tensor
    """int64 (N,), from 1: class k has the label k + 1"""
    scores: Tensor
    """float32 (N,), 0 to 1"""
    mask_cells: Tensor | None
    """float32 (N, 1, S, S), probabilities in the cells of the boxes; None from a detector of boxes only"""
    size: tuple[int, int]
    """height and width of the image"""
    paste: Literal["grid", "box"]
    """how cells become pixels, see `a2mamba.detection.paste_masks`"""

    columns: ClassVar[tuple[str, ...]] = ("image", "objects", "class and score")
    suffixes: ClassVar[dict[str, str]] = {"drawing": ""}

    @cached_property
    def masks(self) -> Tensor | None:
        """bool (N, H, W), made when first asked for; None from a detector of boxes only."""
        if self.mask_cells is None:
            return None
        return paste_masks(self.mask_cells, self.boxes, self.size, threshold=_MASK_THRESHOLD, paste=self.paste)[:, 0]

    def to_dict(self) -> dict[str, Any]:
        """Return "image" and "objects", a list of class, label, score, box and, where there are masks, their pixels."""
        objects: list[dict[str, Any]] = [
            {
                "class": self.classes[label - 1],
                "label": label,
                "score": round(score, 6),
                "box": [round(corner, 2) for corner in box],
            }
            for label, score, box in zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True)
        ]
        if self.masks is not None:
            for entry, mask in zip(objects, self.masks, strict=True):
                entry["mask_pixels"] = int(mask.sum())
        return {"image": self.source.name, "objects": objects}

    def row(self) -> tuple[str, ...]:
        """Return the image, the number of objects, and the best ones."""
        best = zip(self.labels.tolist()[:8], self.scores.tolist(), strict=False)
        found = ", ".join(f"{self.classes[label - 1]} {score:.2f}" for label, score in best)
        return self.source.name, str(len(self.labels)), found

    def drawings(self) -> dict[str, Image.Image]:
        """Return the image with boxes, masks and labels on it."""
        objects = {"boxes": self.boxes, "labels": self.labels, "scores": self.scores}
        if self.masks is not None:
            objects["masks"] = self.masks
        scale = max(1.0, _DRAWN_SIDE / max(self.size))
        return {"drawing": draw_objects(self.source.image, objects, names=self.classes, scale=scale)}
