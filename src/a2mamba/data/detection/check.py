"""The part of the data set checker that knows objects: COCO's annotation files and the images that they list."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from a2mamba.data.check import DatasetReport, Layout, Progress, SplitReport
from a2mamba.data.detection.annotations import CocoAnnotations, load_content, parse_annotations
from a2mamba.data.detection.dataset import missing_files
from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.data.names import describe_class_difference, some

_BLOCK = 256
_PREFIX = "instances_"
# How far an edge of a mask may be from its box's: rounding moves it by about a pixel, and annotators draw a box around
# the polygon and not around the pixels. A mask of another object is farther away.
_SLACK_PIXELS, _SLACK_SHARE = 2.0, 0.1


@dataclass(frozen=True)
class CocoSplitReport(SplitReport):
    """One split: number of usable objects of each category, undecodable images, and the number of images listed."""

    listed: int

    @property
    def images(self) -> int:
        """Number of images that the annotation file lists."""
        return self.listed


class _ImageFacts(NamedTuple):
    """What is in an image file: the digest of its bytes and its height and width, or why it cannot be decoded."""

    digest: bytes
    size: tuple[int, int]
    reason: str | None


def annotation_files(root: Path) -> dict[str, Path]:
    """Annotation files by split, the training split first."""
    found = {file.stem.removeprefix(_PREFIX): file for file in (root / "annotations").glob(f"{_PREFIX}*.json")}
    return dict(sorted(found.items(), key=lambda item: (not item[0].startswith("train"), item[0])))


def _check(root: Path, progress: Progress | None) -> DatasetReport:
    problems: list[str] = []
    splits: dict[str, SplitReport] = {}
    places: dict[bytes, list[tuple[str, str]]] = {}
    first: tuple[str, list[str]] | None = None
    for split, file in annotation_files(root).items():
        annotations = _read(file, split, problems)
        if annotations is None:
            splits[split] = CocoSplitReport({}, {}, 0)
            continue
        folder = next((path for path in (root / split, root / "images" / split) if path.is_dir()), root / split)
        problems += _object_problems(annotations, split)
        undecodable: dict[str, str] = {}
        for digest, path, problem in _image_problems(annotations, folder, split, undecodable, progress):
            if problem:
                problems.append(problem)
            else:
                places.setdefault(digest, []).append((split, path))
        counts = np.bincount(annotations.labels, minlength=len(annotations.categories) + 1)[1:].tolist()
        names = _distinct_names(annotations)
        splits[split] = CocoSplitReport(dict(zip(names, counts, strict=True)), undecodable, len(annotations.file_names))
        unused = [name for name, count in zip(names, counts, strict=True) if count == 0]
        if unused:
            problems.append(f"{split}: {len(unused)} of {len(names)} categories have no objects: {some(unused)}")
        numbered = [f"{category.id} {category.name}" for category in annotations.categories]
        if first is None:
            first = split, numbered
        elif difference := describe_class_difference(first[1], numbered):
            problems.append(f"{split}: other categories than {first[0]}: {difference}")
    duplicates = [[path for _, path in group] for group in places.values() if len({split for split, _ in group}) > 1]
    if duplicates:
        pairs = some(" = ".join(group) for group in duplicates)
        problems.append(f"{len(duplicates)} images lie in more than one split: {pairs}")
    return DatasetReport(str(root), "coco", splits, duplicates, problems)


def _read(file: Path, split: str, problems: list[str]) -> CocoAnnotations | None:
    """The annotations, with one line in `problems` for each kind of problem; None where the file cannot be read."""
    found: dict[str, list[str]] = {}
    try:
        content = load_content(file)
    except ValueError as error:
        problems.append(f"{split}: {error}")
        return None
    # A file of boxes alone is sound; one in which some objects have masks is not.
    masks = any(isinstance(entry, dict) and entry.get("segmentation") for entry in content["annotations"])
    annotations = parse_annotations(
        content, file=file, masks=masks, problem=lambda kind, text: found.setdefault(kind, []).append(text)
    )
    problems += [f"{split}: {kind}, {len(texts)} times: {some(texts, 3)}" for kind, texts in found.items()]
    return annotations


def _object_problems(annotations: CocoAnnotations, split: str) -> Iterator[str]:
    for reason, ids in annotations.skipped.items():
        if reason != "crowd":
            yield f"{split}: {len(ids)} annotations are left out in training, {reason}: {some(map(str, ids))}"
    twice = [name for name, count in Counter(annotations.file_names).items() if count > 1]
    if twice:
        yield f"{split}: {len(twice)} files are listed as more than one image: {some(twice)}"
    if annotations.segmentations is None:
        return
    damaged: list[str] = []
    empty: list[str] = []
    apart: list[str] = []
    for box, row, identity in zip(
        annotations.boxes, annotations.segmentation_rows.tolist(), annotations.annotation_ids.tolist(), strict=True
    ):
        try:
            extent = annotations.segmentations.extent(row)
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
            yield f"{split}: {len(names)} {what}, annotations {some(names)}"


def _image_problems(
    annotations: CocoAnnotations, folder: Path, split: str, undecodable: dict[str, str], progress: Progress | None
) -> Iterator[tuple[bytes, str, str]]:
    """(digest, file, "") for each sound image, (b"", "", problem) for each kind of problem."""
    absent = missing_files(folder, annotations.file_names)
    if absent:
        yield b"", "", f"{split}: {len(absent)} listed images are not in {folder}: {some(absent)}"
    missing = set(absent)
    numbers = [number for number, name in enumerate(annotations.file_names) if name not in missing]
    resized = []
    # Decoding and hashing release the interpreter's lock. Blocks keep the queue short: map submits all at once.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(numbers), _BLOCK):
            block = numbers[start : start + _BLOCK]
            paths = [folder / annotations.file_names[number] for number in block]
            for number, path, image in zip(block, paths, pool.map(_look, paths), strict=True):
                if image.reason is not None:
                    undecodable[str(path)] = image.reason
                    continue
                height, width = annotations.image_sizes[number].tolist()
                if image.size != (height, width):
                    resized.append(f"{path} ({image.size[1]} x {image.size[0]} pixels, listed {width} x {height})")
                yield image.digest, str(path), ""
            if progress is not None:
                progress(start + len(block), len(numbers), split)
    if undecodable:
        yield b"", "", f"{split}: {len(undecodable)} undecodable images: {some(undecodable)}"
    if resized:
        yield b"", "", f"{split}: {len(resized)} images are of another size than listed: {some(resized)}"


def _look(path: Path) -> _ImageFacts:
    try:
        content = path.read_bytes()
        image = decode_image(io.BytesIO(content), name=str(path))
    except UndecodableImageError as error:
        return _ImageFacts(b"", (0, 0), error.reason)
    except OSError as error:
        return _ImageFacts(b"", (0, 0), error.strerror or "unreadable")
    return _ImageFacts(hashlib.sha256(content).digest(), (image.height, image.width), None)


def _distinct_names(annotations: CocoAnnotations) -> list[str]:
    """Names of the categories, with the id where a name occurs twice: they are keys of the report."""
    counts = Counter(category.name for category in annotations.categories)
    return [
        category.name if counts[category.name] == 1 else f"{category.name} ({category.id})"
        for category in annotations.categories
    ]


def _recognize(root: Path) -> bool:
    return bool(annotation_files(root))


COCO_CHECK = Layout(
    name="coco",
    expected="<root>/annotations/instances_<split>.json and <root>/<split>/<image>",
    recognize=_recognize,
    check=_check,
)
"""The entry of the checker's table of layouts."""
