"""What a reader of annotations finds in a folder, and what it offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from a2mamba.data.detection.annotations import Category, DetectionAnnotations, Problem

TRAIN_NAMES = ("train", "training", "trainval")
VAL_NAMES = ("val", "valid", "validation", "eval", "dev", "test", "testing")
"""Names that splits go by, best first; a year or another suffix may follow."""


class SplitPlaces(NamedTuple):
    """Where one split lies: the folder of its images, and the file or folder of its annotations."""

    images: Path
    annotations: Path


class ReadSplit(Protocol):
    """Read the annotations of one split; ValueError, one line, names file and field."""

    def __call__(
        self, places: SplitPlaces, *, masks: bool | None, categories: Sequence[Category] | None, problem: Problem | None
    ) -> DetectionAnnotations:
        """Read a split.

        Args:
            places: of images and annotations.
            masks: read the objects' masks; every object then needs one. None reads them where there is any.
            categories: that the labels have to fit, by name; None takes the split's own.
            problem: called with what is wrong and left out; None raises it.
        """


@dataclass(frozen=True)
class DetectionSource:
    """A folder with images and objects.

    Args:
        layout: the reader's name.
        root: the folder.
        description: one sentence with counts.
        splits: by name, the training split first.
        masks: whether the training annotations hold masks.
        reader: of a split.
    """

    layout: str
    root: Path
    description: str
    splits: dict[str, SplitPlaces]
    masks: bool
    reader: ReadSplit

    @property
    def train_split(self) -> str:
        """The split to train on."""
        return next(iter(self.splits))

    @property
    def val_split(self) -> str:
        """The split to evaluate on; the training split where there is no other."""
        others = list(self.splits)[1:]
        named = [name for kind in VAL_NAMES for name in others if name.lower().startswith(kind)]
        return (named or others or [self.train_split])[0]

    def read(
        self,
        split: str,
        *,
        masks: bool | None = None,
        categories: Sequence[Category] | None = None,
        problem: Problem | None = None,
    ) -> DetectionAnnotations:
        """Read one split; see `ReadSplit`."""
        return self.reader(self.splits[split], masks=masks, categories=categories, problem=problem)


class Reader(NamedTuple):
    """One annotation format."""

    name: str
    expected: str
    """The shape of its folders, for messages."""
    find: Callable[[Path], DetectionSource | None]
    read: ReadSplit


def in_order(splits: dict[str, SplitPlaces]) -> dict[str, SplitPlaces]:
    """The splits, the training split first."""

    def rank(name: str) -> tuple[int, str]:
        kinds = (TRAIN_NAMES, VAL_NAMES)
        return next((place for place, kind in enumerate(kinds) if name.lower().startswith(kind)), len(kinds)), name

    return dict(sorted(splits.items(), key=lambda item: rank(item[0])))


def describe(what: str, counts: dict[str, int], categories: int | None) -> str:
    """One sentence about what was found: images of each split, and the number of categories where it is known."""
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    known = "" if categories is None else f", {categories} categories"
    return f"{what}: {sum(counts.values()):,} images ({parts}){known}"
