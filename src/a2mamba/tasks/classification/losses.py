"""Image classification: batches to losses, batches to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LabeledImages(Protocol):
    """What the task reads of a batch."""

    @property
    def images(self) -> Tensor:
        """Images (B, C, H, W): float32 and normalized, or what ``prepare`` takes."""
        ...

    @property
    def targets(self) -> Tensor:
        """Class indices (B,), int64."""
        ...

    @property
    def paths(self) -> list[str]:
        """B file names."""
        ...


class Position(Protocol):
    """What the task reads of the engine's progress."""

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        ...


Prepare = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images, class indices) -> (normalized images, class indices or probabilities (B, classes)), on the device"""


class ClassificationLosses:
    """Cross-entropy, and from some epoch on a second one against the averaged model (MESA).

    MESA as the authors run it (their training script; the ratios are MLLA's): the averaged model, in eval mode and
    without gradients, sees the same prepared batch; q is the softmax of its logits, without temperature;

        loss = CE(logits, target) + ratio * CE(logits, q)

    where both are the mean over the batch of -sum(p log softmax). The average is the one before this step's update.

    Args:
        model: maps images (B, C, H, W) to logits (B, classes).
        prepare: what happens to a batch before the model sees it; None: nothing.
        mesa_ratio: weight of the second term; 0: none.
        mesa_start: epochs that are completed before it begins.
    """

    def __init__(
        self, model: nn.Module, *, prepare: Prepare | None = None, mesa_ratio: float = 0.0, mesa_start: int = 0
    ) -> None:
        self.model = model
        self.prepare = prepare
        self.mesa_ratio = mesa_ratio
        self.mesa_start = mesa_start
        self._average: nn.Module | None = None

    def learn_from(self, average: nn.Module) -> None:
        """Take the averaged model, which stays in eval mode; a ratio above 0 needs one before the first loss."""
        self._average = average

    def losses(self, batch: LabeledImages, progress: Position) -> dict[str, Tensor]:
        """Return {"cross_entropy": scalar}, and "mesa", times its ratio, once it has begun; means over the batch."""
        images, targets = batch.images, batch.targets
        if self.prepare is not None:
            images, targets = self.prepare(images, targets)
        logits = self.model(images)
        losses = {"cross_entropy": F.cross_entropy(logits, targets)}
        if self.mesa_ratio > 0 and progress.epoch >= self.mesa_start:
            assert self._average is not None, "the run gives a task with MESA its averaged model"
            with torch.no_grad():
                taught = torch.softmax(self._average(images).float(), dim=-1)
            losses["mesa"] = self.mesa_ratio * F.cross_entropy(logits, taught)
        return losses

    def batch_size(self, batch: LabeledImages) -> int:
        """Return the number of images."""
        return len(batch.targets)

    def describe(self, batch: LabeledImages) -> list[str]:
        """Return the file names of the images."""
        return list(batch.paths)


def class_scores(model: nn.Module, images: Tensor) -> Tensor:
    """Return class probabilities (B, classes), float32, of normalized images (B, C, H, W)."""
    return torch.softmax(model(images).float(), dim=-1)
