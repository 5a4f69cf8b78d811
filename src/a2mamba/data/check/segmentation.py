"""The part of the data set checker that knows images with a class for each pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from a2mamba.data.check.images import ImageFacts, Seen, inspect_all, inspect_image
from a2mamba.data.check.report import DatasetReport, Progress, SplitReport, with_reasons
from a2mamba.data.images import UndecodableImageError
from a2mamba.data.names import is_hidden, some
from a2mamba.data.recognized import Recognized
from a2mamba.data.segmentation.config import SegmentationData
from a2mamba.data.segmentation.files import SegmentationFiles, SegmentationLayout, SegmentationPair, scan
from a2mamba.data.segmentation.folders import half_splits
from a2mamba.data.segmentation.labels import IGNORE_LABEL, AnyLabelMap, LabelFileError, class_labels
from a2mamba.data.segmentation.loaders import size_difference
from a2mamba.data.segmentation.source import find_convention, find_layout


@dataclass(frozen=True)
class SegmentationSplitReport(SplitReport):
    """One split: number of images that show each class, undecodable files, and the number of pairs."""

    pairs: int

    @property
    def images(self) -> int:
        """Number of images that have a label file."""
        return self.pairs


class PairFacts(NamedTuple):
    """What is in a pair of files.

    image: of the image; undecodable: file and reason; unfit: why the labels do not fit; classes: indices in the labels.
    """

    image: ImageFacts
    undecodable: tuple[str, str] | None
    unfit: str | None
    classes: frozenset[int]


def check_segmentation(found: Recognized, progress: Progress | None = None) -> DatasetReport:
    """Look through all pairs of images and label files, of every split that is there."""
    data = found.place(SegmentationData(root=str(found.root)))
    layout = find_layout(found.root, found.layout)
    label_map = find_convention(data).label_map
    splits: dict[str, SplitReport] = {}
    seen = Seen()
    wanted = [split for split in (layout.train_split, layout.val_split) if split is not None]
    halves = half_splits(found.root, layout)
    problems = [f"only {folder} of this split exists; expected {layout.expected()}" for folder in halves]
    for split in _splits(found.root, layout, wanted):
        files = scan(found.root, layout, split)
        results = list(inspect_all(partial(inspect_pair, label_map=label_map), files.pairs, split, progress))
        undecodable = dict(result.undecodable for result in results if result.undecodable is not None)
        counts = np.zeros(len(found.classes), dtype=np.int64)
        for pair, result in zip(files.pairs, results, strict=True):
            counts[sorted(result.classes)] += 1
            if result.image.reason is None:
                seen.add(split, pair.image, result.image)
        shown = dict(zip(found.classes, counts.tolist(), strict=True))
        splits[split] = SegmentationSplitReport(shown, undecodable, len(results))
        unfit = [result.unfit for result in results if result.unfit is not None]
        problems += _problems(split, files, undecodable, unfit)
        unseen = [label for label, count in shown.items() if count == 0]
        if results and unseen and split in wanted:
            problems.append(f"{split}: {len(unseen)} of {len(found.classes)} classes are never seen: {some(unseen)}")
    problems += seen.problems()
    return DatasetReport(str(found.root), found.layout, splits, seen.duplicates(), problems, seen.notes())


def inspect_pair(pair: SegmentationPair, label_map: AnyLabelMap) -> PairFacts:
    """Decode an image and its label file, as training would."""
    none: frozenset[int] = frozenset()
    image = inspect_image(pair.image)
    if image.reason is not None:
        return PairFacts(image, (pair.image, image.reason), None, none)
    if pair.converted:
        label_map = class_labels(label_map.num_classes)
    try:
        classes = label_map.read(pair.label)
    except LabelFileError as error:
        return PairFacts(image, None, f"{pair.label} ({error.reason})", none)
    except UndecodableImageError as error:
        return PairFacts(image, (pair.label, error.reason), None, none)
    unfit = None
    if classes.shape != image.size:
        unfit = f"{pair.label} ({size_difference(pair.image, classes.shape, image.size)})"
    shown = np.flatnonzero(np.bincount(classes.ravel(), minlength=256)[:IGNORE_LABEL])
    return PairFacts(image, None, unfit, frozenset(shown.tolist()))


def _splits(root: Path, layout: SegmentationLayout, wanted: list[str]) -> list[str]:
    """Splits that are there, those of the layout first."""
    own = [split for split in wanted if layout.has(root, split)]
    images, split, rest = layout.images.partition("{split}")
    if layout.lists is not None or not split or rest:
        return own
    above = root / images
    names = sorted(entry.name for entry in above.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    return [*own, *(name for name in names if name not in own and layout.has(root, name))]


def _problems(split: str, files: SegmentationFiles, undecodable: dict[str, str], unfit: list[str]) -> Iterator[str]:
    if not files.pairs:
        yield f"{split}: no images with label files"
    for names, what in (
        (files.images_alone, "images without a label file"),
        (files.labels_alone, "label files without an image"),
        (files.doubles, "images that share a label file with another"),
        (files.label_doubles, "label files whose image has another one"),
        (with_reasons(undecodable), "undecodable files"),
        (unfit, "label files that do not fit"),
    ):
        if names:
            yield f"{split}: {len(names)} {what}: {some(names)}"
