"""The objects of many images in memory: the one form that every annotation format is read into.

What cannot be meant is an error that names file and annotation. What the COCO protocol leaves out of training (crowds,
ignored objects, boxes without a pixel) is kept for evaluation, not used, counted, and can be asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from a2mamba.data.detection.masks import NoPolygonError, SegmentationStore
from a2mamba.data.names import some

Problem = Callable[[str, str], None]
"""Called with (kind of problem, text naming the place); where it returns, the entry is left out."""

CROWD = "crowd"
"""The reason for which annotations of groups are not used; the others are faults of the file."""


_COLUMNS = ("annotation_ids", "boxes", "labels", "areas", "crowd", "used", "segmentation_rows")


class Category(NamedTuple):
    """A class of objects: its id in the annotation file, and its name."""

    id: int
    name: str


@dataclass(frozen=True)
class DetectionAnnotations:
    """The images of one split and the objects on them.

    Args:
        file: the file or folder that they were read from.
        categories: the category of label k at position k - 1; 0 is the background. In increasing order of ids, or in
            the order of the categories that the labels had to fit.
        image_ids: int64 (I,), in the file's order.
        image_sizes: int64 (I, 2), height and width that the boxes refer to.
        file_names: I names, relative to the image folder.
        first: int64 (I + 1,); image i has the rows first[i] to first[i + 1] - 1 of the next seven.
        annotation_ids: int64 (M,).
        boxes: float64 (M, 4), x y w h in pixels, as they are stated.
        labels: int64 (M,), 1 to the number of categories.
        areas: float64 (M,), in pixels, as they are stated; evaluation takes the size of an object from them.
        crowd: bool (M,), a region with many objects.
        used: bool (M,), takes part in training.
        segmentation_rows: int64 (M,), places in `segmentations`, -1 where an object has no mask.
        segmentations: the masks; None when they were not read.
        skipped: reason -> ids of the annotations that are not used for it.
        repaired: reason -> ids of the annotations that are used without a part.
        folder: of the images; None where the reader was told none.
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
    areas: np.ndarray
    crowd: np.ndarray
    used: np.ndarray
    segmentation_rows: np.ndarray
    segmentations: SegmentationStore | None
    skipped: dict[str, list[int]]
    repaired: dict[str, list[int]]
    folder: Path | None = None

    @property
    def category_ids(self) -> list[int]:
        """The category id of label k at position k - 1."""
        return [category.id for category in self.categories]

    @property
    def used_objects(self) -> np.ndarray:
        """How many objects of each image take part in training, int64 (I,)."""
        return np.add.reduceat(np.append(self.used, False), self.first[:-1]) * (np.diff(self.first) > 0)

    def rows(self, image: int) -> slice:
        """The rows of image number `image`, those that are not used among them."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def objects(self, image: int) -> np.ndarray:
        """The rows of the objects of image number `image` that take part in training, int64."""
        rows = self.rows(image)
        return np.flatnonzero(self.used[rows]) + rows.start

    def corners(self, image: int) -> np.ndarray:
        """The boxes of `objects(image)`, float64 (N, 4) x0 y0 x1 y1, clipped to the image."""
        boxes = self.boxes[self.objects(image)]
        height, width = self.image_sizes[image]
        corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
        corners[:, :2] = np.maximum(corners[:, :2], 0)
        corners[:, 2:] = np.minimum(corners[:, 2:], (width, height))
        return corners

    def selected(self, keep: np.ndarray) -> DetectionAnnotations:
        """Some of the images, bool (I,), with their objects; `skipped` and `repaired` stay those of the file."""
        counts = np.diff(self.first)
        rows = np.repeat(keep, counts)
        return replace(
            self,
            image_ids=self.image_ids[keep],
            image_sizes=self.image_sizes[keep],
            file_names=tuple(name for name, kept in zip(self.file_names, keep.tolist(), strict=True) if kept),
            first=np.concatenate(([0], np.cumsum(counts[keep]))).astype(np.int64),
            **{name: getattr(self, name)[rows] for name in _COLUMNS},
        )

    def mask(self, row: int) -> np.ndarray:
        """The mask of the object in `row`, uint8 (height, width) of the image.

        Raises:
            ValueError: the mask is damaged; the message names file and annotation.
            ImportError: as `SegmentationStore.draw`.
        """
        assert self.segmentations is not None, "read with masks=False"
        try:
            return self.segmentations.draw(int(self.segmentation_rows[row]))
        except ValueError as error:
            raise ValueError(f"{self.file}: annotation {self.annotation_ids[row]}: {error}") from None


def refuse_in(file: Path) -> Problem:
    """A `Problem` that raises ValueError, one line that begins with the file."""

    def refuse(kind: str, text: str) -> NoReturn:
        raise ValueError(f"{file}: {text} ({kind}); correct the file")

    return refuse


class AnnotationBuilder:
    """Takes images and objects one by one, checks them, and makes arrays of them.

    Args:
        file: where they come from.
        categories: of the labels.
        masks: keep the objects' masks; every object that is used then needs one.
        problem: see `Problem`.
    """

    def __init__(self, file: Path, categories: Sequence[Category], *, masks: bool, problem: Problem) -> None:
        self.file = file
        self.categories = tuple(categories)
        self.problem = problem
        self.skipped: dict[str, list[int]] = {}
        self.repaired: dict[str, list[int]] = {}
        self._store = SegmentationStore() if masks else None
        self._ids: list[int] = []
        self._names: list[str] = []
        self._known: set[str] = set()
        self._sizes: list[tuple[int, int]] = []
        self._table = _Table()

    def add_image(self, image_id: int, name: str, height: int, width: int) -> int:
        """Append an image and return its number, which `add_object` takes; a file that comes twice is a problem."""
        if name in self._known:
            self.problem("file listed twice", f"{name} is more than one image, each with a part of the objects on it")
        self._known.add(name)
        self._ids.append(image_id)
        self._names.append(name)
        self._sizes.append((height, width))
        return len(self._ids) - 1

    def add_object(
        self,
        image: int,
        label: int,
        box: Sequence[float],
        *,
        identity: int,
        area: float,
        segmentation: object = None,
        crowd: bool = False,
        ignore: bool = False,
        where: str = "",
    ) -> None:
        """Append an object.

        Args:
            image: the number of its image.
            label: from 1 on.
            box: x y w h in pixels, finite numbers.
            identity: the annotation's id, for messages and `skipped`.
            area: of the object in pixels.
            segmentation: polygons or run lengths, see `SegmentationStore.append`; nothing where there is none.
            crowd: a region with many objects.
            ignore: the file asks not to use it.
            where: its place in its file, for messages, where the id says nothing.
        """
        height, width = self._sizes[image]
        reason = _reason_to_skip(box, area, height, width, crowd=crowd, ignore=ignore)
        row = -1
        if self._store is not None:
            try:
                row = self._append_mask(segmentation, height, width, identity)
            except NoPolygonError as error:
                self.skip(str(error), identity)
                return  # neither training nor evaluation can know what was meant
            except ValueError as error:
                if not reason or segmentation:
                    self.problem("no valid mask", f"{where or f'annotation {identity}:'} {error}")
                    return
        if reason:
            self.skip(reason, identity)
        table = self._table
        table.owners.append(image)
        table.annotation_ids.append(identity)
        table.labels.append(label)
        table.boxes.append((box[0], box[1], box[2], box[3]))
        table.areas.append(area)
        table.crowd.append(crowd)
        table.used.append(not reason)
        table.rows.append(row)

    def build(self, *, folder: Path | None = None) -> DetectionAnnotations:
        """Return what was added, the objects in the order of their images."""
        table = self._table
        owners = np.array(table.owners, dtype=np.int64)
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=len(self._ids))
        return DetectionAnnotations(
            file=self.file,
            categories=self.categories,
            image_ids=np.array(self._ids, dtype=np.int64),
            image_sizes=np.array(self._sizes, dtype=np.int64).reshape(-1, 2),
            file_names=tuple(self._names),
            first=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            annotation_ids=np.array(table.annotation_ids, dtype=np.int64)[order],
            boxes=np.array(table.boxes, dtype=np.float64).reshape(-1, 4)[order],
            labels=np.array(table.labels, dtype=np.int64)[order],
            areas=np.array(table.areas, dtype=np.float64)[order],
            crowd=np.array(table.crowd, dtype=bool)[order],
            used=np.array(table.used, dtype=bool)[order],
            segmentation_rows=np.array(table.rows, dtype=np.int64)[order],
            segmentations=self._store,
            skipped=self.skipped,
            repaired=self.repaired,
            folder=folder,
        )

    def _append_mask(self, segmentation: object, height: int, width: int, identity: int) -> int:
        assert self._store is not None
        if not segmentation:
            raise ValueError("it has no segmentation; train and evaluate with boxes alone (masks=False)")
        left_out = self._store.append(segmentation, height=height, width=width)
        if left_out:
            self.repaired.setdefault("a polygon among others that is none", []).append(identity)
        return len(self._store) - 1

    def skip(self, reason: str, identity: int) -> None:
        """Count an object that is not used."""
        self.skipped.setdefault(reason, []).append(identity)


@dataclass
class _Table:
    owners: list[int] = field(default_factory=list)
    annotation_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    crowd: list[bool] = field(default_factory=list)
    used: list[bool] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def match_categories(
    found: Sequence[Category], expected: Sequence[Category], *, problem: Problem
) -> tuple[tuple[Category, ...], dict[int | None, int]]:
    """Give a file's categories the labels that others of the same names have.

    Names decide, upper and lower case only where that leaves no doubt; ids do not: two splits that were exported
    apart number the same names differently.

    Args:
        found: of the file.
        expected: the category of label k at position k - 1.
        problem: called where a name of the file is not among the expected ones, or stands for several.

    Returns:
        the categories by label, with the file's ids and the expected names; and the label of each of the file's ids.
        A category that the file lacks has an id that the file does not use.
    """
    if list(found) == list(expected):
        return tuple(expected), {category.id: label for label, category in enumerate(expected, start=1)}
    places = _unique([category.name for category in expected])
    labels: dict[int | None, int] = {}
    unknown: list[str] = []
    for category in found:
        place = places.get(category.name, places.get(_plain(category.name)))
        if place is None or place + 1 in labels.values():
            unknown.append(category.name)
        else:
            labels[category.id] = place + 1
    if unknown:
        names = some(category.name for category in expected)
        problem("other categories", f"its categories {some(unknown)} are not those of training, {names}")
    ids = {labels[category.id]: category.id for category in found if category.id in labels}
    free = max([category.id for category in (*found, *expected)], default=0) + 1
    categories = []
    for label, category in enumerate(expected, start=1):
        if label not in ids:
            taken = category.id in labels
            ids[label], free = (free, free + 1) if taken else (category.id, free)
        categories.append(Category(ids[label], category.name))
    return tuple(categories), labels


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Name -> place, in lower case too where no other name is the same then."""
    plain = Counter(map(_plain, names))
    exact = Counter(names)
    places = {_plain(name): place for place, name in enumerate(names) if plain[_plain(name)] == 1}
    return places | {name: place for place, name in enumerate(names) if exact[name] == 1}


def _plain(name: str) -> str:
    return name.strip().casefold()


def _reason_to_skip(box: Sequence[float], area: float, height: int, width: int, *, crowd: bool, ignore: bool) -> str:
    """Why an object takes no part in training, empty if it does: the rules of the COCO protocol in mmdetection."""
    x, y, w, h = box
    if crowd:
        return CROWD
    if ignore:
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
