"""Digits and scenes as files, in the layouts of ImageNet, ADE20K and COCO."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from a2mamba.data.demo.digits import Digits, digit_image
from a2mamba.data.demo.scenes import Scene

Progress = Callable[[int, int, str], None]

ADE_CLASSES = ("background", *(f"digit_{digit}" for digit in range(10)))
"""Names of the classes of the maps, from value 1 on."""


class Counter:
    """Counts files and passes the count on."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, what: str) -> None:
        """Count a file of the set ``what``."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, what)


def write_imagenet(folder: Path, digits: Digits, report: Counter) -> int:
    """Write a split in folders of classes; return the number of its images."""
    for label in range(10):
        (folder / f"digit_{label}").mkdir(parents=True)
    for number, (ink, label) in enumerate(zip(digits.ink, digits.labels.tolist(), strict=True)):
        digit_image(ink).save(folder / f"digit_{label}" / f"{number:04d}.png")
        report("imagenet")
    return len(digits.labels)


def write_ade(folder: Path, split: str, scenes: Iterator[Scene], report: Counter) -> int:
    """Write a split of images and class maps; return their number."""
    images, annotations = folder / "images" / split, folder / "annotations" / split
    images.mkdir(parents=True)
    annotations.mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(ADE_CLASSES) + "\n", encoding="utf-8")
    prefix = "ADE_train" if split == "training" else "ADE_val"
    number = 0
    for number, scene in enumerate(scenes, start=1):
        stem = f"{prefix}_{number:08d}"
        scene.image.save(images / f"{stem}.jpg", quality=92)
        Image.fromarray(scene.classes).save(annotations / f"{stem}.png")
        report("ADEChallengeData2016")
    return number


def write_coco(folder: Path, split: str, scenes: Iterator[Scene], first_id: int, report: Counter) -> int:
    """Write a split of images, numbered from ``first_id``, and its annotations; return the number of images."""
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=first_id):
        file_name = f"{image_id:012d}.jpg"
        scene.image.save(folder / split / file_name, quality=92)
        width, height = scene.image.size
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for number, instance in enumerate(scene.instances, start=1):
            annotations.append(
                {
                    "id": image_id * 100 + number,
                    "image_id": image_id,
                    "category_id": instance.label + 1,
                    "bbox": _box(instance.mask),
                    "area": int(instance.mask.sum()),
                    "segmentation": {"size": [height, width], "counts": run_lengths(instance.mask)},
                    "iscrowd": 0,
                }
            )
        report("coco")
    content = {
        "info": {"description": "a2mamba demo scenes of handwritten digits", "version": "1.0"},
        "licenses": [],
        "categories": [{"id": digit + 1, "name": f"digit_{digit}", "supercategory": "digit"} for digit in range(10)],
        "images": images,
        "annotations": annotations,
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return len(images)


def _box(mask: np.ndarray) -> list[int]:
    """COCO's box of a mask with at least one pixel: left, top, width, height."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE: lengths of runs of 0 and 1 in turn, down the columns, beginning with 0."""
    pixels = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(pixels, prepend=0)).tolist()
    return np.diff([0, *edges, pixels.size]).tolist()
