"""The class of every pixel of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from a2mamba.tasks.prediction import Prediction
from a2mamba.visualize import class_map_image, overlay


@dataclass(frozen=True, repr=False)
class SegmentationPrediction(Prediction):
    """A map of classes."""

    class_map: Tensor
    """uint8 (H, W), class indices at the image's own size, on the CPU"""
    palette: Sequence[tuple[int, int, int]]
    """the color of each class"""

    columns: ClassVar[tuple[str, ...]] = ("image", "classes by share")
    suffixes: ClassVar[dict[str, str]] = {"map": "-classes", "overlay": "-overlay"}

    def to_dict(self) -> dict[str, Any]:
        """Return "image" and "classes": class, index and share of the pixels of those that occur, largest first."""
        counts = self.class_map.flatten().bincount(minlength=len(self.classes))
        shares = [
            {"class": self.classes[i], "index": i, "share": round(int(counts[i]) / self.class_map.numel(), 6)}
            for i in counts.argsort(descending=True).tolist()
            if counts[i]
        ]
        return {"image": self.source.name, "classes": shares}

    def row(self) -> tuple[str, ...]:
        """Return the image and its largest classes."""
        entries = self.to_dict()["classes"][:5]
        return self.source.name, ", ".join(f"{entry['class']} {100 * entry['share']:.1f} %" for entry in entries)

    def drawings(self) -> dict[str, Image.Image]:
        """Return the map, a palette image of class indices, and the image with the colors of the classes over it."""
        image = self.source.image
        return {
            "map": class_map_image(self.class_map, tuple(self.palette)),
            "overlay": overlay(image, self.class_map, tuple(self.palette)),
        }
