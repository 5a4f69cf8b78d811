"""Image classification: batches to losses, batches to logits."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LabelledImages(Protocol):
    """What the task reads of a batch."""

    @property
    def images(self) -> Tensor:
        """Normalised images (B, C, H, W), float32."""
        ...

    @property
    def targets(self) -> Tensor:
        """Class indices (B,), int64."""
        ...

    @property
    def paths(self) -> list[str]:
        """B file names."""
        ...


class ClassificationTask:
    """Cross-entropy with label smoothing.

    Args:
        model: maps images (B, C, H, W) to logits (B, classes).
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
    """

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0) -> None:
        self.model = model
        self.label_smoothing = label_smoothing

    def losses(self, batch: LabelledImages, progress: object) -> dict[str, Tensor]:
        """Return {"cross_entropy": scalar}, the mean over the batch; ``progress`` does not change it."""
        logits = self.model(batch.images)
        return {"cross_entropy": F.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing)}

    def batch_size(self, batch: LabelledImages) -> int:
        """Return the number of images."""
        return len(batch.targets)

    def describe(self, batch: LabelledImages) -> list[str]:
        """Return the file names of the images."""
        return list(batch.paths)


def class_scores(model: nn.Module, images: Tensor) -> Tensor:
    """Return class probabilities (B, classes), float32, of normalised images (B, C, H, W)."""
    return torch.softmax(model(images).float(), dim=-1)
