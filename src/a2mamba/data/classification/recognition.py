"""Whether a folder holds images with one class each: class folders, or a table beside the images."""

from __future__ import annotations

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from a2mamba.data.classification.class_folders import ClassTree, scan_classes
from a2mamba.data.classification.tables import find_tables, read_table, refuse_measurements
from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.names import describe_class_difference, is_hidden, some
from a2mamba.data.recognized import Recognized
from a2mamba.data.splits import HOLDOUT, find_splits, split_role, trained_on

_SPLIT_LIKE = re.compile(r"(train|val|valid|validation|test)(ing)?([_-].*)?", re.IGNORECASE)
# Folders of these names, beside each other, hold images and what was said about them.
_IMAGE_KINDS = frozenset({"images", "image", "imgs", "img", "img_dir", "jpegimages", "leftimg8bit"})
LABEL_KINDS = frozenset(
    {"annotations", "annotation", "ann", "ann_dir", "labels", "label", "masks", "mask", "imagesets", "gtfine"}
    | {"segmentationclass", "segmentationobject", "bboxes", "boxes", "xml", "xmls", "jsons"}
)
_ANNOTATION_FILES = (".json", ".xml", ".txt")
_LOOKED_AT = 2000


def recognize_table(root: Path) -> Recognized | None:
    """Kaggle's arrangement: train.csv and folders of images."""
    train, val = find_tables(root)
    if train is None:
        return None
    table = read_table(root, train)
    refuse_measurements(table)
    counts = {train: len(table.rows)}
    notes = [f"{len(table.missing)} images of {table.file.name} are not there"] if table.missing else []
    if table.incomplete:
        notes.append(f"{table.incomplete} rows of {table.file.name} lack an image or a label, and are left out")
    if val is None:
        refuse_single(Counter(label for _, label in table.rows))
    if val is not None:
        held_out = read_table(root, val)
        counts[val] = len(held_out.rows)
        shared = len({file for file, _ in table.rows} & {file for file, _ in held_out.rows})
        if shared:
            notes.append(trained_on(shared, counts[val], val, train))
    return Recognized(
        task="classification",
        layout="csv",
        title=f"a table of images and classes ({table.file.name})",
        root=root,
        counts=counts,
        classes=table.classes,
        fields={
            "root": str(root),
            "source": "csv",
            "train_split": train,
            "val_split": val,
            "holdout": 0.0 if val else HOLDOUT,
        },
        holdout=0.0 if val else HOLDOUT,
        notes=notes,
    )


def recognize_class_folders(root: Path) -> Recognized | None:
    """Class folders: in splits of any usual name, or in root itself, of which a part is held out then.

    What has annotations beside its images is none, whatever its folders are called.
    """
    if has_annotations(root):
        return None
    train, val = class_splits(root)
    if train is None and any(_SPLIT_LIKE.fullmatch(name) for name in _folders(root)):
        return None  # a split without classes, or with nothing to train on: its name is no class
    tree = scan_classes(root / train if train is not None else root)
    if not tree.samples or {name.lower() for name in tree.classes} <= _IMAGE_KINDS | LABEL_KINDS:
        return None
    counts = {train or "": len(tree.samples)}
    notes: list[str] = []
    if train is not None and val is not None:
        held_out = scan_classes(root / val)
        counts[val] = len(held_out.samples)
        shared = _shared(tree, held_out)
        if shared:
            notes.append(trained_on(shared, counts[val], val, train))
        shown = [name for name, count in held_out.counts.items() if count]
        lacking = [name for name in tree.classes if name not in set(shown)]
        if lacking and not set(shown) - set(tree.classes):
            notes.append(f"{val} shows {len(shown)} of the {len(tree.classes)} classes: not {some(lacking)}")
    holdout = 0.0 if len(counts) > 1 else HOLDOUT
    if holdout:
        refuse_single(tree.counts)
    return Recognized(
        task="classification",
        layout="class_folders",
        title="class folders" + (f" in {train}/" if train is not None else ""),
        root=root,
        counts=counts,
        classes=[name for name, count in tree.counts.items() if count],
        fields={"root": str(root), "train_split": train, "val_split": val if not holdout else None, "holdout": holdout},
        holdout=holdout,
        notes=notes,
    )


def _shared(train: ClassTree, val: ClassTree) -> int:
    """How many images to evaluate on lie in folders of the training split, to which links lead."""
    folders = {(train.folder / name).resolve() for name in train.classes}
    return sum(count for name, count in val.counts.items() if (val.folder / name).resolve() in folders)


def refuse_single(counts: Mapping[str, int]) -> None:
    """ValueError where a part has to be held out, and a class has one image."""
    single = [name for name, count in counts.items() if count == 1]
    if single:
        raise ValueError(
            f"{len(single)} of {len(counts)} classes have one image, so that none can be held out for evaluation: "
            f"{some(single)}; add images to them, or make a split to evaluate on"
        )


def class_splits(root: Path) -> tuple[str | None, str | None]:
    """The folders of root to train and to evaluate on, which hold class folders; None where there is none.

    A split's folder may hold the split once more, as some archives do: seg_train/seg_train/<class>.
    """
    inner = {name: _descend(root, name) for name in _folders(root) if split_role(name) is not None}
    # Class folders without images make a split, too: one that is found wanting instead of being passed over.
    usable = {name: place for name, place in inner.items() if _folders(root / place)}
    train, val = find_splits(usable)
    return usable.get(train or ""), usable.get(val or "")


def refusals(root: Path, tree: ClassTree) -> Iterator[str]:
    """What of class folders cannot be trained on; one line each, as loading would say it."""
    empty = [name for name, count in tree.counts.items() if count == 0]
    if empty:
        yield f"{len(empty)} class folders without images: {some(empty)}"
    if tree.strays:
        yield f"{len(tree.strays)} images outside of class folders: {some(tree.strays)}"


def class_difference(train: ClassTree, val: ClassTree) -> str:
    """What of an evaluation split's class folders is not in training; "" where it has a part of the classes."""
    if set(val.classes) <= set(train.classes):
        return ""
    return describe_class_difference(train.classes, val.classes)


def refuse_annotated(root: Path, split: str | None) -> None:
    """Raise ValueError where class folders would be read from a folder that has annotations beside its images."""
    if has_annotations(root):
        where = root if split is None else root / split
        raise ValueError(
            f"the folders in {where} are no classes: {root} has annotations beside its images; see what it is with: "
            f"a2mamba data check {shlex.quote(str(root))}"
        )


def has_annotations(root: Path) -> bool:
    """Whether something says more of the images than the folder that each lies in."""
    return find_annotations(root) is not None


def find_annotations(root: Path) -> Path | None:
    """The file or folder that says more of the images than the folder that each lies in; None without."""
    splits = [root / name for name in _folders(root) if _SPLIT_LIKE.fullmatch(name)]
    for place in (root, *splits):
        folders = _folders(place)
        names = {name.lower() for name in folders}
        kinds = [name for name in folders if name.lower() in LABEL_KINDS]
        images = [name for name in folders if name.lower() in _IMAGE_KINDS]
        if images and (kinds or place in splits):
            return place / (kinds or images)[0]
        if kinds and any(_SPLIT_LIKE.fullmatch(name) for name in names):
            return place / kinds[0]
        beside = _coco_beside(place)
        if beside is not None:
            return place / beside
        for name in islice(folders, 5):
            beside = _named_like_an_image(place / name)
            if beside is not None:
                return place / name / beside
    return None


def _coco_beside(folder: Path) -> str | None:
    """The JSON file of annotations in a folder: one that begins like COCO's."""
    for name in _files(folder):
        if name.lower().endswith(".json"):
            with (folder / name).open("rb") as file:
                start = file.read(1 << 16)
            if b'"annotations"' in start or (b'"images"' in start and b'"file_name"' in start):
                return name
    return None


def _named_like_an_image(folder: Path) -> str | None:
    """A text, XML or JSON file beside an image, under the image's name."""
    names = list(_files(folder))
    stems = {Path(name).stem for name in names if name.lower().endswith(IMAGE_EXTENSIONS)}
    return next((name for name in names if name.lower().endswith(_ANNOTATION_FILES) and Path(name).stem in stems), None)


def _descend(root: Path, name: str) -> str:
    inner = _folders(root / name)
    if len(inner) == 1 and (inner[0] == name or split_role(inner[0]) is not None) and not any(_files(root / name)):
        return f"{name}/{inner[0]}"
    return name


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())


def _files(folder: Path) -> Iterator[str]:
    """Names of the first files in a folder."""
    with os.scandir(folder) as entries:
        for entry in islice(entries, _LOOKED_AT):
            if not is_hidden(entry.name) and not entry.is_dir():
                yield entry.name
