"""Top-k accuracy, cross-entropy and the confusion matrix, from logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class TopK:
    """Top-k accuracy in percent, and the mean cross-entropy.

    A sample counts for k when fewer than k classes beat the true one. Between equal logits the class with the lower
    index wins, so that a network which gives every class the same logit is not called right.

    Args:
        ks: the values of k; one beyond the number of classes acts as the number of classes, under its own name.

    Raises:
        ValueError: no k, a k below 1, or one given twice.
    """

    def __init__(self, ks: Sequence[int] = (1, 5)) -> None:
        if not ks or min(ks) < 1 or len(set(ks)) != len(ks):
            raise ValueError(f"ks={tuple(ks)}: expected different values of 1 or more")
        self.ks = tuple(ks)
        self._count = 0
        self._correct = [0] * len(self.ks)
        self._loss_sum = 0.0

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Args:
            logits: (B, classes), any floating dtype, on any device.
            targets: (B,), class indices.

        Raises:
            ValueError: shapes that do not match, a target out of range, or a logit that is not finite.
        """
        logits, targets = _checked(logits, targets)
        true = logits.gather(1, targets[:, None])
        lower = torch.arange(logits.shape[1]) < targets[:, None]
        rank = ((logits > true) | ((logits == true) & lower)).sum(dim=1)
        self._correct = [
            total + int((rank < min(k, logits.shape[1])).sum()) for k, total in zip(self.ks, self._correct, strict=True)
        ]
        self._loss_sum += float(functional.cross_entropy(logits, targets, reduction="sum"))
        self._count += len(targets)

    def results(self) -> Iterator[tuple[str, float]]:
        """("top1", percent), ("top5", percent), ... for each k, then ("loss", nats per sample).

        Raises:
            ValueError: before the first sample.
        """
        if self._count == 0:
            raise ValueError("no samples were evaluated")
        for k, correct in zip(self.ks, self._correct, strict=True):
            yield f"top{k}", 100 * correct / self._count
        yield "loss", self._loss_sum / self._count

    def state(self) -> dict[str, Any]:
        """Counts and sums as plain numbers."""
        return {"ks": list(self.ks), "count": self._count, "correct": list(self._correct), "loss_sum": self._loss_sum}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another process's `state()`.

        Raises:
            ValueError: it was accumulated for other values of k.
        """
        if tuple(state["ks"]) != self.ks:
            raise ValueError(f"cannot merge ks={tuple(state['ks'])} into ks={self.ks}")
        self._count += state["count"]
        self._correct = [a + b for a, b in zip(self._correct, state["correct"], strict=True)]
        self._loss_sum += state["loss_sum"]


class ConfusionMatrix:
    """How often each class was taken for each other one.

    Args:
        num_classes: at least 1.

    Raises:
        ValueError: fewer than one class.
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: expected 1 or more")
        self.num_classes = num_classes
        self._matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    @property
    def matrix(self) -> Tensor:
        """int64 (classes, classes) on the CPU: [true class, predicted class]; a copy."""
        return self._matrix.clone()

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch; the prediction is the highest logit, the lowest index between equal ones.

        Args:
            logits: (B, num_classes), any floating dtype, on any device.
            targets: (B,), class indices.

        Raises:
            ValueError: shapes that do not match, a target out of range, or a logit that is not finite.
        """
        logits, targets = _checked(logits, targets)
        if logits.shape[1] != self.num_classes:
            raise ValueError(f"logits have {logits.shape[1]} classes, the matrix {self.num_classes}")
        index = targets * self.num_classes + logits.argmax(dim=1)
        self._matrix += torch.bincount(index, minlength=self.num_classes**2).view_as(self._matrix)

    def results(self) -> Iterator[tuple[str, float]]:
        """("accuracy", percent of samples), ("mean_class_accuracy", mean over the classes that occur, percent).

        Raises:
            ValueError: before the first sample.
        """
        total = int(self._matrix.sum())
        if total == 0:
            raise ValueError("no samples were evaluated")
        right, of_class = self._matrix.diagonal(), self._matrix.sum(dim=1)
        yield "accuracy", 100 * int(right.sum()) / total
        yield "mean_class_accuracy", 100 * float((right.double() / of_class)[of_class > 0].mean())

    def state(self) -> dict[str, Any]:
        """The counts as a plain list of rows."""
        return {"matrix": self._matrix.tolist()}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another process's `state()`.

        Raises:
            ValueError: it has another number of classes.
        """
        if len(state["matrix"]) != self.num_classes:
            raise ValueError(f"cannot merge {len(state['matrix'])} classes into {self.num_classes}")
        self._matrix += torch.tensor(state["matrix"], dtype=torch.int64)


def _checked(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """float64 logits and int64 targets on the CPU: float64 is exact for sums and missing on some accelerators."""
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: expected (B, classes) and (B,)"
        )
    if targets.is_floating_point() or targets.is_complex():
        raise ValueError(f"targets are {targets.dtype}: expected integers")
    logits, targets = logits.detach().cpu().double(), targets.detach().cpu().long()
    outside = (targets < 0) | (targets >= logits.shape[1])
    if outside.any():
        raise ValueError(f"target {int(targets[outside][0])} is out of range for {logits.shape[1]} classes")
    finite = logits.isfinite().all(dim=1)
    if not finite.all():
        first = int((~finite).nonzero()[0])
        raise ValueError(f"logits of {int((~finite).sum())} of {len(logits)} samples are not finite, first at {first}")
    return logits, targets
