"""Intersection over union of a segmentation network, each image looked at as the run's test mode says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torchvision.transforms.functional import to_pil_image

from a2mamba.data import SegmentationImage, segmentation_palette
from a2mamba.evaluation import MeanIoU
from a2mamba.segmentation import predict
from a2mamba.tasks.evaluation import GRID_ROWS, Evaluation
from a2mamba.tasks.segmentation.run import SegmentationRun
from a2mamba.visualize import class_legend, class_map_image, image_grid, overlay, write_png


class SegmentationEvaluation(Evaluation[SegmentationRun, SegmentationImage]):
    """See `Evaluation`."""

    metric: MeanIoU

    def update(self, model: nn.Module, batches: Iterable[SegmentationImage], *, detailed: bool) -> Sequence[MeanIoU]:
        """Return the metric of single images; it has all details as it is."""
        self.metric = MeanIoU(len(self.classes))
        self._images = 0
        for sample in batches:
            self.metric.update(self._predict(model, sample), sample.target)
            self._images += 1
        return [self.metric]

    def _predict(self, model: nn.Module, sample: SegmentationImage) -> Any:
        data = self.run.data
        return predict(model, sample.image, mode=self.run.test, mean=data.mean, std=data.std, device=self.device)

    @property
    def images(self) -> int:
        """Number of images of the last call."""
        return self._images

    def absent_classes(self) -> list[str]:
        """Return the classes without a pixel."""
        return [name for name, there in zip(self.classes, self.metric.present().tolist(), strict=True) if not there]

    def class_table(self) -> list[dict[str, Any]]:
        """Return intersection over union and accuracy of each class, in percent; NaN for one that does not occur."""
        iou, accuracy = (100 * values for values in (self.metric.iou(), self.metric.accuracy()))
        return [
            {"class": name, "iou": float(i), "accuracy": float(a)}
            for name, i, a in zip(self.classes, iou, accuracy, strict=True)
        ]

    def confusion(self) -> list[list[int]]:
        """Return numbers of pixels, [true class][predicted class]."""
        counts: list[list[int]] = self.metric.matrix.tolist()
        return counts

    def write_images(self, model: nn.Module, folder: Path) -> Path:
        """Write segmentation.png: image, truth and prediction of images from all over the split."""
        palette = segmentation_palette(self.run.data.layout, len(self.classes))
        chosen = range(0, len(self.loader), max(1, len(self.loader) // GRID_ROWS))[:GRID_ROWS]
        rows, maps = [], []
        for number, sample in enumerate(self.loader):
            if number not in chosen:
                continue
            prediction = self._predict(model, sample)
            image = to_pil_image(sample.image)
            rows.append([image, class_map_image(sample.target, palette), class_map_image(prediction, palette)])
            rows[-1].append(overlay(image, prediction, palette))
            maps += [sample.target, prediction]
        grid = image_grid(
            rows,
            headings=("image", "truth", "prediction", "overlay"),
            legend=class_legend(maps, self.classes, palette),
        )
        write_png(grid, folder / "segmentation.png")
        return folder / "segmentation.png"
