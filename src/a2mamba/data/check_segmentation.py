"""The part of the data set checker that knows images with a class for each pixel."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from a2mamba.data.check import DatasetReport, Layout, Progress, SplitReport
from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.data.label_maps import IGNORE_LABEL, LabelFileError, read_labels
from a2mamba.data.names import some
from a2mamba.data.segmentation import (
    SegmentationData,
    classes_by_count,
    listed_classes,
    segmentation_labels,
)
from a2mamba.data.segmentation_files import (
    SEGMENTATION_LAYOUTS,
    SegmentationFiles,
    SegmentationPair,
    expected_layout,
    scan_segmentation,
)

_BLOCK = 256


@dataclass(frozen=True)
class SegmentationSplitReport(SplitReport):
    """One split: number of images that show each class, undecodable files, and the number of pairs."""

    pairs: int

    @property
    def images(self) -> int:
        """Number of images that have a label file."""
        return self.pairs


class _Found(NamedTuple):
    """What is in a pair of files.

    digest: of the image's bytes; undecodable: file and reason; unfit: why the labels do not fit; values: the numbers
    in the label file.
    """

    digest: bytes | None
    undecodable: tuple[str, str] | None
    unfit: str | None
    values: frozenset[int]


def _splits(root: Path, layout: str) -> list[str]:
    """Folders that are under the images and under the labels, those of the layout first."""
    shape = SEGMENTATION_LAYOUTS[layout]
    images, labels = root / shape.images, root / shape.labels
    if not images.is_dir() or not labels.is_dir():
        return []
    both = {entry.name for entry in images.iterdir() if entry.is_dir() and (labels / entry.name).is_dir()}
    own = [name for name in (shape.train_split, shape.val_split) if name in both]
    return [*own, *sorted(both - {*own})] if own else []


def _check(root: Path, progress: Progress | None, layout: str) -> DatasetReport:
    problems: list[str] = []
    shape = SEGMENTATION_LAYOUTS[layout]
    names = _splits(root, layout)
    for name in (shape.train_split, shape.val_split):
        alone = [kind for kind in (shape.images, shape.labels) if (root / kind / name).is_dir()]
        if len(alone) == 1:
            problems.append(f"{name}: only {root / alone[0] / name} exists; expected {expected_layout(layout)}")
    scanned = {name: scan_segmentation(root, layout, name) for name in names}
    found = {name: list(_inspect(scanned[name].pairs, name, progress)) for name in names}
    classes = _classes(root, layout, [(scanned[name].pairs, found[name]) for name in names], problems)

    splits: dict[str, SplitReport] = {}
    places: dict[bytes, list[tuple[str, str]]] = {}
    for name in names:
        files, results = scanned[name], found[name]
        undecodable = dict(result.undecodable for result in results if result.undecodable is not None)
        unfit = [result.unfit for result in results if result.unfit is not None]
        counts = np.zeros(len(classes), dtype=np.int64)
        for pair, result in zip(files.pairs, results, strict=True):
            table = segmentation_labels(layout, len(classes), converted=pair.converted).table()
            indices = table[sorted(result.values)]
            if (indices < 0).any():
                wrong = [value for value in sorted(result.values) if table[value] < 0]
                unfit.append(f"{pair.label} (label {some(map(str, wrong))} is out of range)")
            counts[indices[(indices >= 0) & (indices != IGNORE_LABEL)]] += 1
            if result.digest is not None:
                places.setdefault(result.digest, []).append((name, pair.image))
        splits[name] = SegmentationSplitReport(
            dict(zip(classes, counts.tolist(), strict=True)), undecodable, len(results)
        )
        problems += _problems(name, files, undecodable, unfit)
        unseen = [label for label, count in zip(classes, counts.tolist(), strict=True) if count == 0]
        if results and unseen and name in (shape.train_split, shape.val_split):
            problems.append(f"{name}: {len(unseen)} of {len(classes)} classes are never seen: {some(unseen)}")
    duplicates = [[file for _, file in group] for group in places.values() if len({split for split, _ in group}) > 1]
    if duplicates:
        pairs = some(" = ".join(group) for group in duplicates)
        problems.append(f"{len(duplicates)} images lie in more than one split: {pairs}")
    return DatasetReport(str(root), layout, splits, duplicates, problems)


def _problems(split: str, files: SegmentationFiles, undecodable: dict[str, str], unfit: list[str]) -> Iterator[str]:
    if not files.pairs:
        yield f"{split}: no images with label files"
    for names, what in (
        (files.images_alone, "images without a label file"),
        (files.labels_alone, "label files without an image"),
        (files.doubles, "images that share a label file with another"),
        (list(undecodable), "undecodable files"),
        (unfit, "label files that do not fit"),
    ):
        if names:
            yield f"{split}: {len(names)} {what}: {some(names)}"


def _classes(
    root: Path, layout: str, splits: Sequence[tuple[list[SegmentationPair], list[_Found]]], problems: list[str]
) -> list[str]:
    """The data set's list, or as many classes as the largest label of the first split makes necessary."""
    data = SegmentationData(root=str(root), layout=layout)
    try:
        names = listed_classes(data)
    except ValueError as error:
        problems.append(str(error))
        names = None
    if names is not None:
        return names
    _, first = splits[0]
    largest = max((value for result in first for value in result.values if value != IGNORE_LABEL), default=0)
    return classes_by_count(data, max(1, largest if layout == "ade20k" else largest + 1))


def _inspect(pairs: list[SegmentationPair], split: str, progress: Progress | None) -> Iterator[_Found]:
    # Decoding and hashing release the interpreter's lock. Blocks keep the queue short: map submits all at once.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(pairs), _BLOCK):
            block = pairs[start : start + _BLOCK]
            yield from pool.map(_inspect_pair, block)
            if progress is not None:
                progress(start + len(block), len(pairs), split)


def _inspect_pair(pair: SegmentationPair) -> _Found:
    none: frozenset[int] = frozenset()
    try:
        content = Path(pair.image).read_bytes()
        image = decode_image(io.BytesIO(content), name=pair.image)
    except UndecodableImageError as error:
        return _Found(None, (pair.image, error.reason), None, none)
    except OSError as error:
        return _Found(None, (pair.image, error.strerror or "unreadable"), None, none)
    digest = hashlib.sha256(content).digest()
    try:
        values = read_labels(pair.label)
    except LabelFileError as error:
        return _Found(digest, None, f"{pair.label} ({error.reason})", none)
    except UndecodableImageError as error:
        return _Found(digest, (pair.label, error.reason), None, none)
    unfit = None
    if values.shape != (image.height, image.width):
        unfit = f"{pair.label} ({values.shape[1]} x {values.shape[0]} pixels, its image {image.width} x {image.height})"
    seen = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return _Found(digest, None, unfit, frozenset(seen.tolist()))


def _recognize(root: Path, layout: str) -> bool:
    return bool(_splits(root, layout))


def _layout(name: str) -> Layout:
    return Layout(
        name=name,
        expected=expected_layout(name),
        recognize=partial(_recognize, layout=name),
        check=partial(_check, layout=name),
    )


SEGMENTATION_CHECKS: tuple[Layout, ...] = tuple(_layout(name) for name in SEGMENTATION_LAYOUTS)
"""Entries for the checker's table of layouts."""
