"""Looking through a data set before a run: what is there, and what would spoil the run or its result."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from a2mamba.data.class_folders import ClassTree, scan_classes
from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, decode_image
from a2mamba.data.names import describe_class_difference, some

Progress = Callable[[int, int, str], None]

_SPLITS = ("train", "training", "val", "valid", "validation", "test")
_BLOCK = 256
# Folders of these names say that the images lie in a layout with labels beside them, not in class folders.
_OTHER_LAYOUTS = ("annotations", "images", "labels", "masks", "leftImg8bit", "gtFine")


@dataclass(frozen=True)
class SplitReport:
    """One split: number of image files per class, and the undecodable ones with the reason for each."""

    classes: dict[str, int]
    undecodable: dict[str, str]

    @property
    def images(self) -> int:
        """Number of image files."""
        return sum(self.classes.values())


@dataclass(frozen=True)
class DatasetReport:
    """What `check_dataset` found.

    Args:
        root: the folder that was checked.
        layout: the layout that was recognized.
        splits: by folder name; "." when root itself holds the class folders.
        duplicates: groups of files with identical bytes that lie in more than one split.
        problems: one line each; empty when the data set is fit for use.
    """

    root: str
    layout: str
    splits: dict[str, SplitReport]
    duplicates: list[list[str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """A few lines for a person."""
        lines = [f"{self.root}: {self.layout} layout"]
        for name, split in self.splits.items():
            if split.classes:
                counts = split.classes.values()
                lines.append(
                    f"  {name}: {split.images} images, {len(counts)} classes of {min(counts)} to {max(counts)}"
                )
            else:
                lines.append(f"  {name}: no class folders")
        lines += [f"  problem: {problem}" for problem in self.problems] or ["  no problems found"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain types, for JSON."""
        return {
            "root": self.root,
            "layout": self.layout,
            "splits": {
                name: {"images": split.images, "classes": split.classes, "undecodable": split.undecodable}
                for name, split in self.splits.items()
            },
            "duplicates": self.duplicates,
            "problems": self.problems,
        }


class Layout(NamedTuple):
    """A kind of data set that can be checked."""

    name: str
    expected: str
    """The shape of its folders, for messages."""
    recognize: Callable[[Path], bool]
    check: Callable[[Path, Progress | None], DatasetReport]


def check_dataset(root: Path | str, *, progress: Progress | None = None) -> DatasetReport:
    """Recognize the layout of a data set and look through every file.

    Args:
        root: the data set's folder.
        progress: called with (files done, files in all, split) now and then.

    Raises:
        ValueError: the folder does not exist, or has no layout that is known here.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"data folder {root} does not exist or is not a folder; check the path")
    layouts = _layouts()
    for layout in layouts:
        if layout.recognize(root):
            return layout.check(root, progress)
    known = "; ".join(f"{layout.name}: {layout.expected}" for layout in layouts)
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    found = f"folders {some(entry.name for entry in folders)}" if folders else "no folders"
    inside = [str(entry) for entry in folders if any(layout.recognize(entry) for layout in layouts)]
    advice = f"; did you mean {some(inside)}?" if inside else ""
    raise ValueError(f"{root} holds {found}, which is no known layout ({known}){advice}")


def _layouts() -> tuple[Layout, ...]:
    # Imported here, because they build on this module.
    from a2mamba.data.check_segmentation import SEGMENTATION_CHECKS
    from a2mamba.data.detection.check import DETECTION_CHECK

    return (*LAYOUTS, *SEGMENTATION_CHECKS, DETECTION_CHECK)


def _imagenet_splits(root: Path) -> dict[str, Path]:
    """Folders of root that are splits, by name; root itself as "." when it holds the class folders directly."""
    if any(_has_class_folders(root / name) for name in _SPLITS):
        # A split whose class folders hold no images is one, too; test images without labels are not looked at.
        return {name: root / name for name in _SPLITS if _folders(root / name)}
    if not any((root / name).is_dir() for name in (*_SPLITS, *_OTHER_LAYOUTS)) and _has_class_folders(root):
        return {".": root}
    return {}


def _has_class_folders(folder: Path) -> bool:
    return any(file.suffix.lower() in IMAGE_EXTENSIONS for entry in _folders(folder) for file in entry.iterdir())


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _check_imagenet(root: Path, progress: Progress | None) -> DatasetReport:
    trees = {name: scan_classes(folder) for name, folder in _imagenet_splits(root).items()}
    problems: list[str] = []
    splits: dict[str, SplitReport] = {}
    places: dict[bytes, list[tuple[str, str]]] = {}
    for name, tree in trees.items():
        undecodable: dict[str, str] = {}
        for file, digest, reason in _inspect(tree, name, progress):
            if reason is not None:
                undecodable[file] = reason
            else:
                places.setdefault(digest, []).append((name, file))
        splits[name] = SplitReport(tree.counts, undecodable)
        empty = [label for label, count in tree.counts.items() if count == 0]
        if empty:
            problems.append(f"{name}: {len(empty)} class folders without images: {some(empty)}")
        if tree.strays:
            problems.append(f"{name}: {len(tree.strays)} images outside of class folders: {some(tree.strays)}")
        if undecodable:
            problems.append(f"{name}: {len(undecodable)} undecodable images: {some(undecodable)}")
    # The first split in the order of _SPLITS is the training split where there is one.
    first, *others = trees
    for name in others:
        difference = describe_class_difference(trees[first].classes, trees[name].classes)
        if difference:
            problems.append(f"{name}: other classes than {first}: {difference}")
    duplicates = [[file for _, file in group] for group in places.values() if len({split for split, _ in group}) > 1]
    if duplicates:
        pairs = some(" = ".join(group) for group in duplicates)
        problems.append(f"{len(duplicates)} images lie in more than one split: {pairs}")
    return DatasetReport(str(root), "imagenet", splits, duplicates, problems)


def _inspect(tree: ClassTree, split: str, progress: Progress | None) -> Iterator[tuple[str, bytes, str | None]]:
    """For each file: its name, the digest of its bytes, and why it cannot be decoded if so."""
    files = [file for file, _ in tree.samples]
    # Decoding and hashing release the interpreter's lock. Blocks keep the queue short: map submits all at once.
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(files), _BLOCK):
            block = files[start : start + _BLOCK]
            for file, (digest, reason) in zip(block, pool.map(_inspect_file, block), strict=True):
                yield file, digest, reason
            if progress is not None:
                progress(start + len(block), len(files), split)


def _inspect_file(file: str) -> tuple[bytes, str | None]:
    try:
        content = Path(file).read_bytes()
        decode_image(io.BytesIO(content), name=file)
    except UndecodableImageError as error:
        return b"", error.reason
    except OSError as error:
        return b"", error.strerror or "unreadable"
    return hashlib.sha256(content).digest(), None


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="imagenet",
        expected="<root>/{train,val}/<class>/<image> or <root>/<class>/<image>",
        recognize=lambda root: bool(_imagenet_splits(root)),
        check=_check_imagenet,
    ),
)
