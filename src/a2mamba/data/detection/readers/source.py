"""What a reader of annotations finds in a folder, and what it offers."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

from a2mamba.data.detection.annotations import Category, DetectionAnnotations, Problem
from a2mamba.data.detection.readers.image_files import locate
from a2mamba.data.names import some
from a2mamba.data.splits import VAL_NAMES, split_role

_SAMPLE = 2000


class SplitPlaces(NamedTuple):
    """Where one split lies: the folder of its images, and the file or folder of its annotations.

    subset: what the split is called inside of a file that holds several.
    """

    images: Path
    annotations: Path
    subset: str = ""


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
        title: what the format is called in sentences.
        splits: by name, the training split first.
        counts: images of each split.
        classes: names, in the order of labels; where one file names them, of all, else of some of the files.
        masks: whether the training annotations hold masks.
        reader: of a split.
        notes: one phrase each about what is unusual.
    """

    layout: str
    root: Path
    title: str
    splits: dict[str, SplitPlaces]
    counts: dict[str, int]
    classes: list[str]
    masks: bool
    reader: ReadSplit
    notes: tuple[str, ...] = ()
    overlap: int = 0
    """images of the split to evaluate on that are trained on, too"""
    mistaken: str = ""
    """what is wrong where an image that one of the two splits lacks would be taken from the folder of the other"""

    @property
    def train_split(self) -> str:
        """The split to train on."""
        return next(iter(self.splits))

    @property
    def val_split(self) -> str:
        """The split to evaluate on; the training split where there is no other."""
        others = list(self.splits)[1:]
        return next((name for name in others if role_of(name) == "val"), (others or [self.train_split])[0])

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
    """The splits: the training split first, then the one to evaluate on."""

    def rank(name: str) -> tuple[int, str]:
        order = [_plain(known) for known in VAL_NAMES]
        if role_of(name) == "train":
            return -1, name
        return order.index(_plain(name)) if role_of(name) == "val" else len(order), name

    return dict(sorted(splits.items(), key=lambda item: rank(item[0])))


def with_overlap(source: DetectionSource, names: Mapping[str, Sequence[str]]) -> DetectionSource:
    """The source, with the number of images that are listed for training and for evaluation; names: of each split."""
    train, val = source.train_split, source.val_split
    if train == val:
        return source
    common = set(map(_bare, names[train])) & set(map(_bare, names[val]))
    if not common:  # as in most sets: nothing has to be looked for
        return source
    files: dict[str, set[str]] = {}
    mistaken = ""
    for split, other in ((train, val), (val, train)):
        listed = [name for name in names[split] if _bare(name) in common]
        folder = source.splits[split].images.resolve()
        found = locate(listed, folder, below=source.root.resolve())
        files[split] = {os.path.normpath(folder / name) for name in found}
        others = source.splits[other].images.resolve()
        apart = not others.is_relative_to(folder) or (
            split == train and folder != others and role_of(others.name) == "val"
        )
        searched = {os.path.normpath(folder / new): old for old, new in zip(listed, found, strict=True) if old != new}
        taken = [old for file, old in searched.items() if Path(file).is_relative_to(others)]
        if apart and taken and not mistaken:
            mistaken = (
                f"{len(taken)} images of {source.splits[split].annotations} are in {others} alone, which has images of "
                f"these names for {source.splits[other].annotations}: {some(taken, 3)}; add those of {split}, or "
                f"remove them from the file"
            )
    return replace(source, overlap=len(files[train] & files[val]), mistaken=mistaken)


def _bare(name: str) -> str:
    """A file's name without its folders."""
    return name.replace("\\", "/").rpartition("/")[2]


def evenly(files: Sequence[Path]) -> Sequence[Path]:
    """Some of many files, at even distances: what is known of a folder before all of it is read."""
    return files[:: max(1, -(-len(files) // _SAMPLE))]


def role_of(name: str) -> str | None:
    """ "train" or "val" for the name of a split, with a year or without; None for others."""
    return split_role(_plain(name)) or split_role(name)


def _plain(name: str) -> str:
    """A split's name without the year that may follow it."""
    return re.sub(r"[-_]?\d+$", "", name.lower())
