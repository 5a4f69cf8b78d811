"""The part of the data set checker that knows objects: annotations of any format, and the images that they list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from a2mamba.data.check.images import Seen, inspect_all, inspect_image
from a2mamba.data.check.report import DatasetReport, Progress, SplitReport, with_reasons
from a2mamba.data.detection.annotations import CROWD, DetectionAnnotations, match_categories
from a2mamba.data.detection.readers import READERS
from a2mamba.data.detection.readers.image_files import missing_files, read_header
from a2mamba.data.detection.readers.source import DetectionSource
from a2mamba.data.names import some
from a2mamba.data.recognized import Recognized

# How far an edge of a mask may be from its box's: rounding moves it by about a pixel, and annotators draw a box around
# the polygon and not around the pixels. A mask of another object is farther away.
_SLACK_PIXELS, _SLACK_SHARE = 2.0, 0.1
_SHORT, _LONG = 800, 1333  # sides that images are resized to by default
_FINEST = 4  # pixels of a resized image in one cell of the finest map


@dataclass(frozen=True)
class DetectionSplitReport(SplitReport):
    """One split: number of usable objects of each category, undecodable images, and the number of images listed."""

    listed: int

    @property
    def images(self) -> int:
        """Number of images that the annotations list."""
        return self.listed


def check_detection(found: Recognized, progress: Progress | None = None) -> DatasetReport:
    """Look through all annotations and images of a folder.

    What loading refuses is among the problems, because the same reader says it.

    Args:
        found: the folder.
        progress: called with (files done, files in all, split) now and then.
    """
    source = READERS[found.layout].find(found.root)
    assert source is not None, "recognized before"
    problems: list[str] = []
    splits: dict[str, SplitReport] = {}
    seen = Seen()
    first: tuple[str, DetectionAnnotations] | None = None
    for split in source.splits:
        annotations = _read(source, split, problems, masks=bool(found.fields["masks"]))
        if annotations is None:
            splits[split] = DetectionSplitReport({}, {}, 0)
            continue
        problems += [f"{split}: {text}" for text in _object_problems(annotations)]
        undecodable: dict[str, str] = {}
        problems += [
            f"{split}: {text}" for text in _image_problems(annotations, source, split, undecodable, seen, progress)
        ]
        used = annotations.labels[annotations.used]
        counts = np.bincount(used, minlength=len(annotations.categories) + 1)[1:].tolist()
        names = _distinct_names(annotations)
        number = len(annotations.file_names)
        splits[split] = DetectionSplitReport(dict(zip(names, counts, strict=True)), undecodable, number)
        unused = [name for name, count in zip(names, counts, strict=True) if count == 0]
        if unused:
            problems.append(f"{split}: {len(unused)} of {len(names)} categories have no objects: {some(unused)}")
        if first is None:
            first = split, annotations
        else:
            problems += [f"{split}: {text}" for text in _category_problems(first[1], annotations, first[0])]
    problems += seen.problems()
    return DatasetReport(str(found.root), found.layout, splits, seen.duplicates(), problems, seen.notes())


def _read(source: DetectionSource, split: str, problems: list[str], *, masks: bool) -> DetectionAnnotations | None:
    """The annotations, with one line in `problems` for each kind of problem; None where they cannot be read."""
    found: dict[str, list[str]] = {}
    try:
        annotations = source.read(
            split, masks=masks, problem=lambda kind, text: found.setdefault(kind, []).append(text)
        )
    except ValueError as error:
        problems.append(f"{split}: {error}")
        return None
    problems += [f"{split}: {kind}, {len(texts)} times: {some(texts, 3)}" for kind, texts in found.items()]
    return annotations


def _category_problems(train: DetectionAnnotations, other: DetectionAnnotations, split: str) -> Iterator[str]:
    """What differs between the categories of two splits, by name: what training would refuse, and what is missing."""
    unknown: list[str] = []
    match_categories(other.categories, train.categories, problem=lambda _, text: unknown.append(text))
    for text in unknown:
        yield f"other categories than {split}: {text}"
    found = {category.name.strip().casefold() for category in other.categories}
    missing = [category.name for category in train.categories if category.name.strip().casefold() not in found]
    if missing and not unknown:
        yield f"lacks categories of {split}, and is evaluated on the others: {some(missing)}"


def _object_problems(annotations: DetectionAnnotations) -> Iterator[str]:
    for reason, ids in annotations.skipped.items():
        if reason != CROWD:
            yield f"{len(ids)} annotations are left out in training, {reason}: {some(map(str, ids))}"
    for reason, ids in annotations.repaired.items():
        yield f"{len(ids)} annotations are used without a part, {reason}: {some(map(str, ids))}"
    if annotations.crowd.size and annotations.crowd.all():
        yield f"all {annotations.crowd.size} annotations are marked as crowds (iscrowd), and none is trained on"
    yield from _box_problems(annotations)
    if annotations.segmentations is not None:
        yield from _mask_problems(annotations)


def _box_problems(annotations: DetectionAnnotations) -> Iterator[str]:
    """Boxes that reach beyond their image, and those of which a resize leaves too little to be found."""
    used = annotations.used
    heights, widths = np.repeat(annotations.image_sizes, np.diff(annotations.first), axis=0)[used].T.astype(float)
    x, y, w, h = annotations.boxes[used].T
    ids = annotations.annotation_ids[used]
    beyond = np.maximum.reduce((-x, -y, x + w - widths, y + h - heights)) > 1 + 0.01 * np.maximum(heights, widths)
    if beyond.any():
        yield f"{beyond.sum()} boxes reach beyond their images and are cut there: {some(map(str, ids[beyond]))}"
    scale = np.minimum(_SHORT / np.minimum(heights, widths), _LONG / np.maximum(heights, widths))
    smaller = np.minimum(w, h)
    lost = (scale < 1) & (smaller * scale < _FINEST) & (smaller >= _FINEST)
    if lost.any():
        yield (
            f"{lost.sum()} objects are narrower than {_FINEST} pixels once their images are resized to {_SHORT} x "
            f"{_LONG}, and can hardly be found; cut the images into tiles: {some(map(str, ids[lost]))}"
        )


def _mask_problems(annotations: DetectionAnnotations) -> Iterator[str]:
    assert annotations.segmentations is not None
    damaged: list[str] = []
    empty: list[str] = []
    apart: list[str] = []
    for image in range(len(annotations.image_ids)):
        for row, box in zip(annotations.objects(image).tolist(), annotations.corners(image), strict=True):
            identity = annotations.annotation_ids[row]
            try:
                extent = annotations.segmentations.extent(int(annotations.segmentation_rows[row]))
            except ValueError as error:
                damaged.append(f"{identity} ({error})")
                continue
            if extent is None:
                empty.append(str(identity))
                continue
            width, height = box[2] - box[0], box[3] - box[1]
            slack = np.maximum(_SLACK_PIXELS, _SLACK_SHARE * np.array([width, height] * 2))
            if (np.abs(np.array(extent) - box) > slack).any():
                apart.append(str(identity))
    for names, what in (
        (damaged, "damaged masks"),
        (empty, "masks without a pixel"),
        (apart, "masks that do not match their box"),
    ):
        if names:
            yield f"{len(names)} {what}, annotations {some(names)}"


def _image_problems(
    annotations: DetectionAnnotations,
    source: DetectionSource,
    split: str,
    undecodable: dict[str, str],
    seen: Seen,
    progress: Progress | None,
) -> Iterator[str]:
    """Decode all images; one line for each kind of problem."""
    folder = source.splits[split].images
    missing = missing_files(folder, annotations.file_names)
    if missing:
        yield f"{len(missing)} listed images are not in {folder}: {some(missing)}"
    absent = set(missing)
    numbers = [number for number, name in enumerate(annotations.file_names) if name not in absent]
    files = [str(folder / annotations.file_names[number]) for number in numbers]
    resized: list[str] = []
    stored: list[str] = []
    for number, file, facts in zip(numbers, files, inspect_all(inspect_image, files, split, progress), strict=True):
        if facts.reason is not None:
            undecodable[file] = facts.reason
            continue
        seen.add(split, file, facts)
        height, width = annotations.image_sizes[number].tolist()
        if facts.size == (height, width):
            continue
        header = read_header(Path(file))
        if header is not None and (header.height, header.width) == (height, width):
            stored.append(file)
        else:
            resized.append(f"{file} ({facts.size[1]} x {facts.size[0]} pixels, listed {width} x {height})")
    if undecodable:
        yield f"{len(undecodable)} undecodable images: {some(with_reasons(undecodable))}"
    if resized:
        yield f"{len(resized)} images are of another size than listed: {some(resized)}"
    if stored:
        yield (
            f"{len(stored)} images are shown turned (EXIF orientation) and annotated as they are stored; their objects "
            f"are turned with them: {some(stored)}"
        )


def _distinct_names(annotations: DetectionAnnotations) -> list[str]:
    """Names of the categories, with the id where a name occurs twice: they are keys of the report."""
    counts = Counter(category.name for category in annotations.categories)
    return [
        category.name if counts[category.name] == 1 else f"{category.name} ({category.id})"
        for category in annotations.categories
    ]
