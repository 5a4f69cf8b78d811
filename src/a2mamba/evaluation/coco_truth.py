"""What annotations say is there, in the form that COCO's evaluation reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from a2mamba.data.detection.annotations import DetectionAnnotations


class CocoTruth:
    """The objects of annotations, as plain dicts in the form that the library reads."""

    def __init__(self, annotations: DetectionAnnotations, *, masks: bool) -> None:
        self.name = str(annotations.file)
        self.categories = {category.id: category.name for category in annotations.categories}
        sizes = annotations.image_sizes.tolist()
        ids = annotations.image_ids.tolist()
        self.sizes = {image_id: (height, width) for image_id, (height, width) in zip(ids, sizes, strict=True)}
        self._numbers = {image_id: number for number, image_id in enumerate(ids)}
        self._annotations = annotations
        self._masks = annotations.segmentations if masks else None
        for row in np.flatnonzero((annotations.boxes[:, 2:] < 0).any(axis=1))[:1].tolist():
            raise self._error(row, f"has the box {annotations.boxes[row].tolist()}; expected w and h not < 0")
        if not masks:
            return
        if self._masks is None:
            raise ValueError(f"{self.name} was read without masks; read it with them or evaluate boxes alone")
        for row in np.flatnonzero(annotations.segmentation_rows < 0)[:1].tolist():
            raise self._error(row, "has no segmentation; evaluate boxes alone (iou_types='bbox')")
        # The library's evaluation trusts its input: run lengths of another total keep it busy for ever.
        for row in self._masks.can_be_damaged(annotations.segmentation_rows):
            annotations.mask(row)

    def objects(self, image_id: int, *, masks: bool) -> list[dict[str, Any]]:
        """An image's objects, crowds among them. Ids begin at 1: to the library an object of id 0 is never found."""
        found = self._annotations
        rows = found.rows(self._numbers[image_id])
        objects: list[dict[str, Any]] = [
            {"id": number, "image_id": image_id, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
            for number, category, box, area, crowd in zip(
                range(rows.start + 1, rows.stop + 1),
                self._category_ids(found.labels[rows]),
                found.boxes[rows].tolist(),
                found.areas[rows].tolist(),
                found.crowd[rows].astype(int).tolist(),
                strict=True,
            )
        ]
        if masks:
            assert self._masks is not None
            for entry, place in zip(objects, found.segmentation_rows[rows].tolist(), strict=True):
                entry["segmentation"] = self._masks.run_lengths(place)
        return objects

    def selected(self, image_ids: Iterable[int], *, masks: bool) -> dict[str, Any]:
        """The data set of these images for the library."""
        chosen = sorted(image_ids)
        return {
            "images": [
                {"id": image_id, "height": self.sizes[image_id][0], "width": self.sizes[image_id][1]}
                for image_id in chosen
            ],
            "annotations": [entry for image_id in chosen for entry in self.objects(image_id, masks=masks)],
            "categories": [{"id": identity, "name": name} for identity, name in self.categories.items()],
        }

    def count(self, image_ids: Iterable[int]) -> Counter[int]:
        """Objects of each category that occurs in these images, crowds left out."""
        found = self._annotations
        counts: Counter[int] = Counter()
        for image_id in image_ids:
            rows = found.rows(self._numbers[image_id])
            counts.update(self._category_ids(found.labels[rows][~found.crowd[rows]]))
        return counts

    def _category_ids(self, labels: np.ndarray) -> list[int]:
        return [self._annotations.categories[label - 1].id for label in labels.tolist()]

    def _error(self, row: int, text: str) -> ValueError:
        return ValueError(f"{self.name}: annotation {self._annotations.annotation_ids[row]} {text}")
