"""Detection and instance segmentation: batches to the losses of a detector."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class LabeledObjects(Protocol):
    """What the task reads of a batch."""

    @property
    def images(self) -> list[Tensor]:
        """B images (3, h, w) of their own sizes, uint8 or float32 in [0, 1]."""
        ...

    @property
    def targets(self) -> list[dict[str, Tensor]]:
        """B dictionaries: boxes (N, 4), labels (N,), masks (N, h, w)."""
        ...

    @property
    def paths(self) -> list[str]:
        """B file names."""
        ...


class DetectionLosses:
    """The losses that a detector computes itself (torchvision's contract).

    Args:
        model: maps (images, targets) to a dictionary of losses in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def losses(self, batch: LabeledObjects, progress: object) -> dict[str, Tensor]:
        """Return the detector's losses, each a mean as its protocol defines it; ``progress`` changes nothing."""
        losses: dict[str, Tensor] = self.model([unit_range(image) for image in batch.images], batch.targets)
        return losses

    def batch_size(self, batch: LabeledObjects) -> int:
        """Return the number of images."""
        return len(batch.images)

    def describe(self, batch: LabeledObjects) -> list[str]:
        """Return the file names of the images."""
        return list(batch.paths)


def unit_range(image: Tensor) -> Tensor:
    """Images travel as uint8, a quarter of the bytes, and become float32 in [0, 1] on the device."""
    return image.float() / 255 if image.dtype == torch.uint8 else image
