"""Reading COCO's instances_*.json: checked completely, then kept in arrays.

What cannot be meant is an error that names the file and the annotation. What the COCO protocol leaves out of training
(crowds, ignored objects, boxes without a pixel) is left out, counted, and can be asked for.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from a2mamba.data.detection.masks import SegmentationStore

Problem = Callable[[str, str], None]


class Category(NamedTuple):
    """A class of objects: its id in COCO's files, and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class CocoAnnotations:
    """The objects of one annotation file.

    Args:
        file: where they were read from.
        categories: in increasing id order; the object's label is the position here plus 1, and 0 is the background.
        image_ids: int64 (I,), in the file's order.
        image_sizes: int64 (I, 2), height and width.
        file_names: I names, relative to the image folder.
        first: int64 (I + 1,); image i has the objects first[i] to first[i + 1] - 1.
        annotation_ids: int64 (M,).
        boxes: float64 (M, 4), x0 y0 x1 y1 in pixels, clipped to the image.
        labels: int64 (M,), 1 to the number of categories.
        segmentations: M masks, in the order of `segmentation_rows`; None when they were not read.
        segmentation_rows: int64 (M,).
        skipped: reason -> ids of the annotations that were left out for it.
    """

    file: Path
    categories: tuple[Category, ...]
    image_ids: np.ndarray
    image_sizes: np.ndarray
    file_names: tuple[str, ...]
    first: np.ndarray
    annotation_ids: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    segmentations: SegmentationStore | None
    segmentation_rows: np.ndarray
    skipped: dict[str, list[int]]

    @property
    def category_ids(self) -> list[int]:
        """The category id of label k at position k - 1."""
        return [category.id for category in self.categories]

    def objects(self, image: int) -> slice:
        """The positions of the objects of image number `image`."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def mask(self, position: int) -> np.ndarray:
        """The mask of the object at `position`, uint8 (height, width) of the image.

        Raises:
            ValueError: the mask is damaged; the message names file and annotation.
            ImportError: as `SegmentationStore.draw`.
        """
        assert self.segmentations is not None, "read with masks=False"
        try:
            return self.segmentations.draw(int(self.segmentation_rows[position]))
        except ValueError as error:
            raise ValueError(f"{self.file}: annotation {self.annotation_ids[position]}: {error}") from None


def read_annotations(
    file: Path | str, *, masks: bool = True, categories: Sequence[Category] | None = None
) -> CocoAnnotations:
    """Read and check an annotation file.

    Args:
        file: an instances_*.json.
        masks: read the objects' masks, too; every object then needs one.
        categories: those that the labels refer to, of the training file; None takes the file's own. A file with other
            category ids is refused.

    Raises:
        ValueError: one line that names the file and what is wrong in it: not JSON, a missing key, an id that occurs
            twice, an unknown image or category, a box with values that are missing or not finite, a missing mask.
    """
    path = Path(file)

    def refuse(kind: str, text: str) -> None:
        raise ValueError(f"{path}: {text} ({kind}); correct the file" if kind else f"{path}: {text}")

    return parse_annotations(load_content(path), file=path, masks=masks, categories=categories, problem=refuse)


def load_content(path: Path) -> dict[str, Any]:
    """The file's JSON object, with the lists "images", "annotations" and "categories" in it.

    Raises:
        ValueError: one line, naming the file.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"annotation file {path} cannot be read: {error.strerror or 'unreadable'}; check the path"
        ) from error
    if not text.strip():
        raise ValueError(f"annotation file {path} is empty; expected COCO's JSON")
    try:
        with _without_garbage_collection():
            content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"annotation file {path} is not JSON: {error}") from None
    except (UnicodeDecodeError, RecursionError):
        raise ValueError(f"annotation file {path} is not JSON") from None
    if not isinstance(content, dict):
        found = "a list (of predictions?)" if isinstance(content, list) else type(content).__name__
        raise ValueError(f"annotation file {path} holds {found}; expected an object with images, annotations, ...")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"annotation file {path} has no {key!r}; found {', '.join(content) or 'nothing'}")
        if not isinstance(content[key], list):
            raise ValueError(f"annotation file {path}: {key!r} is {type(content[key]).__name__}, expected a list")
    for key in ("images", "categories"):
        if not content[key]:
            raise ValueError(f"annotation file {path} lists no {key}")
    return content


def parse_annotations(
    content: Mapping[str, Any],
    *,
    file: Path,
    masks: bool,
    categories: Sequence[Category] | None = None,
    problem: Problem,
) -> CocoAnnotations:
    """What `load_content` returned -> arrays.

    Args:
        content: with the lists "images", "annotations" and "categories".
        file: where it comes from.
        masks: as `read_annotations`.
        categories: as `read_annotations`.
        problem: called with (kind of problem, text naming the place); where it returns, the entry is left out.
    """
    known = _categories(content["categories"], categories, problem)
    labels_of = {category.id: label for label, category in enumerate(known, start=1)}
    names: list[str] = []
    ids: list[int] = []
    sizes: list[tuple[int, int]] = []
    numbers: dict[int, int] = {}
    for image_id, name, height, width in _images(content["images"], problem):
        numbers[image_id] = len(ids)
        ids.append(image_id)
        names.append(name)
        sizes.append((height, width))

    seen: set[int] = set()
    skipped: dict[str, list[int]] = {}
    store = SegmentationStore() if masks else None
    owners: list[int] = []
    annotation_ids: list[int] = []
    labels: list[int] = []
    boxes: list[tuple[float, float, float, float]] = []
    for place, entry in enumerate(content["annotations"]):
        where = _identity(entry, seen, "annotation", place, problem)
        if where is None:
            continue
        number, label = numbers.get(_key(entry, "image_id")), labels_of.get(_key(entry, "category_id"))
        if number is None:
            problem("unknown image", f"annotation {where} is of image {entry.get('image_id')!r}, which is not listed")
            continue
        if label is None:
            problem(
                "unknown category",
                f"annotation {where} is of category {entry.get('category_id')!r}, which is not listed",
            )
            continue
        height, width = sizes[number]
        box = _numbers(entry.get("bbox"), 4)
        if box is None:
            problem(
                "no valid box",
                f"annotation {where} has the box {entry.get('bbox')!r}, expected four finite numbers [x, y, w, h]",
            )
            continue
        area = _numbers([entry.get("area", box[2] * box[3])], 1)
        if area is None:
            problem("no valid area", f"annotation {where} has the area {entry['area']!r}, expected a finite number")
            continue
        reason = _reason_to_skip(entry, box, area[0], height, width)
        if reason:
            skipped.setdefault(reason, []).append(where)
            continue
        if store is not None:
            try:
                if not entry.get("segmentation"):
                    raise ValueError("it has no segmentation; set masks=False to train on boxes alone")
                store.append(entry["segmentation"], height=height, width=width)
            except ValueError as error:
                problem("no valid mask", f"annotation {where}: {error}")
                continue
        x, y, w, h = box
        owners.append(number)
        annotation_ids.append(where)
        labels.append(label)
        boxes.append((max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))))

    order = np.argsort(np.array(owners, dtype=np.int64), kind="stable")
    counts = np.bincount(np.array(owners, dtype=np.int64), minlength=len(ids))
    return CocoAnnotations(
        file=file,
        categories=known,
        image_ids=np.array(ids, dtype=np.int64),
        image_sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
        file_names=tuple(names),
        first=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        annotation_ids=np.array(annotation_ids, dtype=np.int64)[order],
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4)[order],
        labels=np.array(labels, dtype=np.int64)[order],
        segmentations=store,
        segmentation_rows=order,
        skipped=skipped,
    )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """JSON makes no cycles, and looking for them again and again as millions of lists appear takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _categories(entries: Sequence[Any], expected: Sequence[Category] | None, problem: Problem) -> tuple[Category, ...]:
    seen: set[int] = set()
    found = []
    for place, entry in enumerate(entries):
        where = _identity(entry, seen, "category", place, problem)
        if where is not None:
            found.append(Category(where, str(entry.get("name", where))))
    found.sort()
    if expected is None:
        return tuple(found)
    if [category.id for category in found] != [category.id for category in expected]:
        missing = sorted({category.id for category in expected} - seen)
        extra = sorted(seen - {category.id for category in expected})
        problem(
            "other categories",
            f"its category ids are not those of training: missing {missing}, unexpected {extra}; both need the same",
        )
    return tuple(expected)


def _images(entries: Sequence[Any], problem: Problem) -> Iterator[tuple[int, str, int, int]]:
    seen: set[int] = set()
    for place, entry in enumerate(entries):
        where = _identity(entry, seen, "image", place, problem)
        if where is None:
            continue
        name, height, width = entry.get("file_name"), entry.get("height"), entry.get("width")
        if not isinstance(name, str) or not name:
            problem("no file name", f"image {where} has the file_name {name!r}, expected a name")
        elif type(height) is not int or type(width) is not int or height < 1 or width < 1:
            problem("no valid size", f"image {where} has height {height!r} and width {width!r}, expected whole pixels")
        else:
            yield where, name, height, width


def _identity(entry: Any, seen: set[int], what: str, place: int, problem: Problem) -> int | None:
    """The entry's id, which must be a new whole number; None after a problem."""
    if not isinstance(entry, dict):
        problem("no object", f"{what} number {place} is {type(entry).__name__}, expected an object")
        return None
    identity = entry.get("id")
    if type(identity) is not int:
        problem("no valid id", f"{what} number {place} has the id {identity!r}, expected a whole number")
        return None
    if identity in seen:
        problem(f"duplicate {what} id", f"{what} id {identity} occurs twice")
        return None
    seen.add(identity)
    return identity


def _key(entry: Mapping[str, Any], name: str) -> Any:
    value = entry.get(name)
    return value if type(value) is int else None


def _numbers(values: Any, count: int) -> list[float] | None:
    if not isinstance(values, list) or len(values) != count:
        return None
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value):
            return None
    return [float(value) for value in values]


def _reason_to_skip(entry: Mapping[str, Any], box: list[float], area: float, height: int, width: int) -> str:
    """Why an object takes no part in training, empty if it does: the rules of the COCO protocol in mmdetection."""
    x, y, w, h = box
    if entry.get("iscrowd"):
        return "crowd"
    if entry.get("ignore"):
        return "marked to be ignored"
    if w < 0 or h < 0:
        return "box of negative size"
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return "box without area or outside of the image"
    if w < 1 or h < 1:
        return "box narrower or lower than one pixel"
    if area <= 0:
        return "area of 0 or less"
    return ""
