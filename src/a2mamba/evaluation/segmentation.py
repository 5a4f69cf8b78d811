"""Intersection over union and accuracy of class maps, accumulated over a whole data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class MeanIoU:
    """Mean intersection over union, mean class accuracy and pixel accuracy, in percent.

    Pixels are counted over the whole set before anything is divided, so that every pixel weighs the same whatever the
    size of its image. Pixels whose target is ignored are left out altogether. The means are over the classes that
    occur in the targets: a split that lacks a class says nothing about it, and pixels that are taken for it count as
    errors of their own classes. (The mIoU of the ADE20K, Cityscapes and COCO-Stuff protocols, whose splits have all.)

    Args:
        num_classes: at least 1.
        ignore_index: target of pixels that are left out; not a class.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes={num_classes}: expected 1 or more")
        if 0 <= ignore_index < num_classes:
            raise ValueError(f"ignore_index={ignore_index} is one of the {num_classes} classes; choose another number")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self._matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    @property
    def matrix(self) -> Tensor:
        """int64 (classes, classes) on the CPU, in pixels: [true class, predicted class]; a copy."""
        return self._matrix.clone()

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image or a batch; counted on the prediction's device.

        Args:
            prediction: (H, W) or (B, H, W), class indices of any integer dtype; those of ignored pixels do not matter.
            target: the same shape, class indices and `ignore_index`.

        Raises:
            ValueError: shapes that do not match, numbers that are no integers, or a class out of range.
        """
        if prediction.shape != target.shape or prediction.ndim not in (2, 3):
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)}: "
                f"expected (H, W) or (B, H, W), the same for both"
            )
        for name, values in (("prediction", prediction), ("target", target)):
            if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
                raise ValueError(f"{name} is {values.dtype}: expected integers, one class index a pixel")
        target = target.to(prediction.device)
        counted = target != self.ignore_index
        prediction, target = prediction[counted].long(), target[counted].long()
        for name, values in (("prediction", prediction), ("target", target)):
            outside = (values < 0) | (values >= self.num_classes)
            if outside.any():
                first = int(values[outside][0])
                raise ValueError(f"{name} {first} is out of range for {self.num_classes} classes")
        counts = torch.bincount(target * self.num_classes + prediction, minlength=self.num_classes**2)
        self._matrix += counts.view_as(self._matrix).cpu()

    def iou(self) -> Tensor:
        """float64 (classes,): intersection over union of each class, 0 to 1; NaN for a class without pixels."""
        intersection = self._matrix.diagonal().double()
        union = self._matrix.sum(dim=0) + self._matrix.sum(dim=1) - intersection
        return (intersection / union).where(self.present(), torch.nan)

    def present(self) -> Tensor:
        """bool (classes,): which classes occur in the targets."""
        return self._matrix.sum(dim=1) > 0

    def accuracy(self) -> Tensor:
        """float64 (classes,): share of each class's pixels that are found, 0 to 1; NaN for a class without pixels."""
        return self._matrix.diagonal().double() / self._matrix.sum(dim=1)

    def results(self) -> Iterator[tuple[str, float]]:
        """("miou", percent), ("macc", mean over the classes, percent), ("pixel_accuracy", percent of pixels).

        Raises:
            ValueError: before the first pixel.
        """
        total = int(self._matrix.sum())
        if total == 0:
            raise ValueError("no pixels were evaluated")
        yield "miou", 100 * float(self.iou().nanmean())
        yield "macc", 100 * float(self.accuracy().nanmean())
        yield "pixel_accuracy", 100 * int(self._matrix.diagonal().sum()) / total

    def state(self) -> dict[str, Any]:
        """The counts as a plain list of rows, and what they are of."""
        return {"ignore_index": self.ignore_index, "matrix": self._matrix.tolist()}

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add another process's `state()`.

        Raises:
            ValueError: it has another number of classes, or ignored other pixels.
        """
        if len(state["matrix"]) != self.num_classes or state["ignore_index"] != self.ignore_index:
            raise ValueError(
                f"cannot merge {len(state['matrix'])} classes, ignore_index={state['ignore_index']} "
                f"into {self.num_classes} classes, ignore_index={self.ignore_index}"
            )
        self._matrix += torch.tensor(state["matrix"], dtype=torch.int64)
