"""The classes of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image
from torch import Tensor

from a2mamba.tasks.prediction import Prediction
from a2mamba.visualize import class_bars


@dataclass(frozen=True, repr=False)
class ClassificationPrediction(Prediction):
    """How probable each class is."""

    probabilities: Tensor
    """float32 (classes,), on the CPU; their sum is 1"""
    top: int = 5
    """how many of the likeliest are named"""

    columns: ClassVar[tuple[str, ...]] = ("image", "class", "%")
    suffixes: ClassVar[dict[str, str]] = {"drawing": ""}

    def likeliest(self) -> list[tuple[int, float]]:
        """Return (class index, probability) of the likeliest, best first."""
        best = self.probabilities.topk(min(self.top, len(self.classes)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Return "image" and "top", a list of class, index and probability."""
        top = [
            {"class": self.classes[index], "index": index, "probability": round(probability, 6)}
            for index, probability in self.likeliest()
        ]
        return {"image": self.source.name, "top": top}

    def row(self) -> tuple[str, ...]:
        """Return the image, its likeliest class and the percentage of that."""
        index, probability = self.likeliest()[0]
        return self.source.name, self.classes[index], f"{100 * probability:.1f}"

    def drawings(self) -> dict[str, Image.Image]:
        """Return the image beside a bar for each of its likeliest classes."""
        named = [(self.classes[index], probability) for index, probability in self.likeliest()]
        return {"drawing": class_bars(self.source.image, named)}
