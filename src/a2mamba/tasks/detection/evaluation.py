"""COCO's average precision of a detector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from a2mamba.data import BatchLoader, CocoDataset, DetectionAnnotations, DetectionBatch
from a2mamba.evaluation import CocoMetric
from a2mamba.evaluation.coco import IouType
from a2mamba.tasks.detection.losses import unit_range
from a2mamba.tasks.detection.run import DetectionRun
from a2mamba.tasks.evaluation import GRID_ROWS, Evaluation
from a2mamba.visualize import GalleryCase, detection_gallery, precision_recall_plot, write_png


class DetectionEvaluation(Evaluation[DetectionRun, DetectionBatch]):
    """See `Evaluation`; `annotations` are the truth, which is read once for all measurements."""

    def __init__(
        self,
        run: DetectionRun,
        annotations: DetectionAnnotations,
        loader: BatchLoader[DetectionBatch],
        device: torch.device | str,
    ) -> None:
        super().__init__(run, [category.name for category in annotations.categories], loader, device)
        self.annotations = annotations
        kinds: tuple[IouType, ...] = ("bbox", "segm") if run.data.masks else ("bbox",)
        self.metric = CocoMetric(annotations, iou_types=kinds)

    def update(self, model: nn.Module, batches: Iterable[DetectionBatch], *, detailed: bool) -> Sequence[CocoMetric]:
        """Return the metric of whole images; it has all details as it is."""
        self.metric = self.metric.emptied()
        for batch in batches:
            outputs = model([unit_range(image.to(self.device)) for image in batch.images])
            self.metric.update([target["image_id"] for target in batch.targets], outputs)
        return [self.metric]

    @property
    def images(self) -> int:
        """Number of images of the last call."""
        return len(self.metric.image_ids)

    def absent_classes(self) -> list[str]:
        """Return the classes without an object."""
        shown = set(self.annotations.labels[self.annotations.used].tolist())
        return [name for label, name in enumerate(self.classes, start=1) if label not in shown]

    def class_table(self) -> list[dict[str, Any]]:
        """Return the average precisions of each class in percent; None for what does not occur."""
        table: list[dict[str, Any]] = [{"class": name} for name in self.classes]
        for kind in self.metric.iou_types:
            prefix = "box" if kind == "bbox" else "mask"
            for row, found in zip(table, self.metric.per_class(kind), strict=True):
                row |= {f"{prefix}_{key}": value for key, value in found._asdict().items() if key.startswith("ap")}
        return table

    def write_images(self, model: nn.Module, folder: Path) -> Path:
        """Write worst.png, typical.png (truth beside prediction) and plots of precision over recall."""
        dataset = CocoDataset(self.run.data.val_paths()[0], self.annotations)
        ranked = self.metric.agreement()
        middle = max(0, len(ranked) // 2 - GRID_ROWS // 2)
        for name, cases in (("worst", ranked[:GRID_ROWS]), ("typical", ranked[middle : middle + GRID_ROWS])):
            shown = [
                GalleryCase(
                    case.image_id, f"{case.found} found, {case.missed} missed, {case.false_positives} of nothing"
                )
                for case in cases
            ]
            write_png(detection_gallery(dataset, shown, self.metric.detections), folder / f"{name}.png")
        for kind in self.metric.iou_types:
            precision_recall_plot(self.metric, folder / f"precision-recall-{kind}.png", iou_type=kind)
        return folder

    def write_results(self, path: Path) -> list[Path]:
        """Write the detections in COCO's result format."""
        return self.metric.write_results(path)
