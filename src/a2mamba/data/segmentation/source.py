"""Where the files of a `SegmentationData` are, and what the numbers or colors in its label files mean."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from a2mamba.data.images import UndecodableImageError
from a2mamba.data.segmentation.config import SegmentationData
from a2mamba.data.segmentation.conventions import choose_colors, choose_numbers, refuse_other_ends
from a2mamba.data.segmentation.datasets import SEGMENTATION_DATASETS
from a2mamba.data.segmentation.datasets.spec import Palette, distinct_palette
from a2mamba.data.segmentation.files import (
    SegmentationFiles,
    SegmentationLayout,
    SegmentationPair,
    scan,
)
from a2mamba.data.segmentation.folders import find_folders
from a2mamba.data.segmentation.labels import (
    IGNORE_LABEL,
    AnyLabelMap,
    LabelMap,
)
from a2mamba.data.segmentation.palettes import CLASS_NAMES_FILE, ListedClasses, find_listed_classes
from a2mamba.data.segmentation.survey import Survey, survey_labels
from a2mamba.data.splits import heldout

FOLDER_LAYOUT = SegmentationLayout("images/{split}", "masks/{split}", "train", "val")
"""What a folder of one's own is expected to look like, where nothing else was found in it."""

_SAMPLED = 200  # label files that are looked into where the classes are listed


@dataclass(frozen=True)
class Convention:
    """What the label files of a data set mean.

    Args:
        classes: names, in the order of class indices.
        label_map: label file -> class indices.
        colors: of the classes, where a file beside them has some.
        note: one phrase about what is unusual and was found out; empty where nothing is.
        seen: class indices that occur in the label files that were looked into; None: they need not be.
    """

    classes: list[str]
    label_map: AnyLabelMap
    colors: Palette | None = None
    note: str = ""
    seen: frozenset[int] | None = None


def find_layout(root: Path | str, layout: str) -> SegmentationLayout:
    """Where a layout keeps its files, by its name; that of a folder of one's own is looked for in root."""
    if layout == "folder":
        return find_folders(Path(root)) or FOLDER_LAYOUT
    return SEGMENTATION_DATASETS[layout].layout


def scan_segmentation(root: Path | str, layout: str, split: str) -> SegmentationFiles:
    """Walk the images and the label files of one split; folders inside the split's may be nested.

    Raises:
        ValueError: the folder of the images or of the labels does not exist.
    """
    return scan(Path(root), find_layout(root, layout), split)


def train_split(data: SegmentationData) -> str:
    """The name of the split to train on."""
    return data.train_split or find_layout(data.root, data.layout).train_split


def val_split(data: SegmentationData) -> str:
    """The name of the split to evaluate on: with `data.holdout` the training split, of which a part is."""
    if data.holdout:
        return train_split(data)
    found = data.val_split or find_layout(data.root, data.layout).val_split
    if found is None:
        raise ValueError(f"{data.root} has no validation split; set data.holdout=0.2 to hold a part of its images out")
    return found


def part(pairs: Sequence[SegmentationPair], share: float, *, held_out: bool) -> list[SegmentationPair]:
    """The held-out part of the pairs, or the others; all of them where share is 0."""
    if not share:
        return list(pairs)
    return [pair for pair, out in zip(pairs, heldout(len(pairs), share), strict=True) if out == held_out]


def segmentation_classes(data: SegmentationData) -> list[str]:
    """Names of the classes in the order of their indices.

    Those of Cityscapes and COCO-Stuff are fixed. ADE20K, Pascal VOC and folders take them from a list in root
    (`palettes`); the published sets' own folders have their names. Where there is no list, `data.num_classes` says how
    many there are, and without that the labels of the training split, which takes a look into every label file.

    Raises:
        ValueError: the data set has another number of classes than `data.num_classes`, or no label files to look into.
    """
    return find_convention(data).classes


def segmentation_palette(layout: str, num_classes: int, *, root: Path | str | None = None) -> Palette:
    """A color for each class: the data set's own where it has them, made ones otherwise.

    Args:
        layout: as `SegmentationData.layout`.
        num_classes: 1 to 255.
        root: the data set, where it may have a list of colors.
    """
    dataset = SEGMENTATION_DATASETS.get(layout)
    listed = find_listed_classes(Path(root)) if root is not None and _is_open(layout) else None
    for known in (listed.colors if listed else None, dataset.palette if dataset else None):
        if known is not None and len(known) == num_classes:
            return known
    return distinct_palette(num_classes)


def segmentation_labels(layout: str, num_classes: int, *, converted: bool = False) -> LabelMap:
    """The table between a data set's label files and class indices; predictions are submitted through its inverse.

    Args:
        layout: as `SegmentationData.layout`.
        num_classes: of the data set.
        converted: of files that hold class indices already.
    """
    dataset = SEGMENTATION_DATASETS.get(layout)
    if converted or dataset is None:
        return LabelMap("class index", tuple(range(num_classes)))
    return dataset.label_map(num_classes)


def find_convention(data: SegmentationData) -> Convention:
    """What the label files of a data set mean: fixed for published sets, found out from names and files for others.

    Raises:
        ValueError: the data set has another number of classes than `data.num_classes`, no label files to look into, or
            labels whose meaning cannot be found out; the message says how to state it.
    """
    root = Path(data.root)
    dataset = SEGMENTATION_DATASETS.get(data.layout)
    listed = find_listed_classes(root) if _is_open(data.layout) else None
    whole = dataset is not None and listed is None and _is_published(data, root)
    if dataset is not None and whole:
        found = Convention(list(dataset.classes), dataset.label_map(len(dataset.classes)))
    elif data.label_values is not None:
        names = listed.names if listed else [f"class_{value}" for value in data.label_values]
        ignored = () if IGNORE_LABEL in data.label_values else (IGNORE_LABEL,)
        found = Convention(names, LabelMap("data.label_values", data.label_values, ignored))
        if len(names) != len(data.label_values) and listed:
            raise ValueError(f"label_values has {len(data.label_values)} numbers, but {listed.file} {len(names)} names")
    else:
        found = _look(data, listed)
    if data.num_classes is not None and data.num_classes != len(found.classes):
        raise ValueError(
            f"num_classes={data.num_classes}, but {data.root} (layout {data.layout!r}) has {len(found.classes)} "
            f"classes; change num_classes, or {CLASS_NAMES_FILE} if it is wrong"
        )
    return found


def _is_open(layout: str) -> bool:
    """Whether others use the layout for classes of their own."""
    dataset = SEGMENTATION_DATASETS.get(layout)
    return dataset is None or dataset.marker is not None


def _is_published(data: SegmentationData, root: Path) -> bool:
    """Whether this is the published data set itself; its own number of classes is taken for a sign of it."""
    dataset = SEGMENTATION_DATASETS[data.layout]
    return (
        dataset.marker is None
        or (root / dataset.marker).is_file()
        or (data.num_classes == len(dataset.classes) and len(dataset.classes) > 100)
    )


def _look(data: SegmentationData, listed: ListedClasses | None) -> Convention:
    """Find the meaning out from the names and from what is in the label files."""
    layout = find_layout(data.root, data.layout)
    split = train_split(data)
    if not layout.folders(Path(data.root), split)[1].is_dir() and (data.val_split or layout.val_split):
        split = data.val_split or layout.val_split or split
    labels = [pair.label for pair in scan(Path(data.root), layout, split).pairs]
    survey = survey_labels(labels[:: max(1, -(-len(labels) // _SAMPLED))] if listed else labels)
    where = str(layout.folders(Path(data.root), split)[1])
    _refuse_other_ends(data, layout, split, survey)
    label_map: AnyLabelMap
    if survey.colors:
        names, color_map, note = choose_colors(survey, listed, root=Path(data.root), where=where)
        known = [color for color in survey.colors if color in color_map.colors]
        seen = np.array([color_map.colors.index(color) for color in known])
        label_map = color_map
    else:
        names, number_map, note = choose_numbers(
            survey, listed, counted_from_one=data.layout == "ade20k", num_classes=data.num_classes, where=where
        )
        seen = number_map.table()[survey.values]
        label_map = number_map
    present = frozenset(int(label) for label in np.unique(seen) if 0 <= label != IGNORE_LABEL)
    dataset = SEGMENTATION_DATASETS.get(data.layout)
    if dataset and listed is None and not note and len(names) == len(dataset.classes):
        names = list(dataset.classes)  # the published data set without its list
    return Convention(names, label_map, listed.colors if listed else None, note, present)


def _refuse_other_ends(data: SegmentationData, layout: SegmentationLayout, split: str, training: Survey) -> None:
    """Compare some masks to evaluate on with those of training; ValueError where they have other conventions."""
    other = data.val_split or layout.val_split
    if data.holdout or other is None or other == split or not layout.has(Path(data.root), other):
        return
    labels = [pair.label for pair in scan(Path(data.root), layout, other).pairs]
    if labels:
        with suppress(UndecodableImageError):  # who loads them names them
            some_labels = labels[:: max(1, -(-len(labels) // _SAMPLED))]
            refuse_other_ends(survey_labels(some_labels), training, str(layout.folders(Path(data.root), other)[1]))
