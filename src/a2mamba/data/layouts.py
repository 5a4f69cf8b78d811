"""Recognizing a folder: the one function that `data check`, `fit` and `train` ask what is in it.

Annotations of objects and masks are looked for first: what has them beside its images is never read as class folders.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from a2mamba.data.classification.class_folders import scan_classes
from a2mamba.data.classification.loaders import refuse_unlearnable
from a2mamba.data.classification.recognition import (
    LABEL_KINDS,
    class_splits,
    find_annotations,
    has_annotations,
    recognize_class_folders,
    recognize_table,
)
from a2mamba.data.classification.tables import advice as table_advice
from a2mamba.data.detection.readers import READERS
from a2mamba.data.detection.recognition import recognize_objects
from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.names import is_hidden, some
from a2mamba.data.recognized import Recognized, UnfitDataError, UnknownLayoutError
from a2mamba.data.segmentation.datasets import SEGMENTATION_DATASETS
from a2mamba.data.segmentation.folders import find_folders
from a2mamba.data.segmentation.recognition import recognize_folder, recognize_published
from a2mamba.data.splits import TRAIN_NAMES, split_role
from a2mamba.data.walk import folders_below
from a2mamba.near_names import did_you_mean

_DOCUMENT = "docs/data.md"
_EXPORTS = {".json", ".ndjson", ".jsonl", ".xml"}
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"}


class Layout(NamedTuple):
    """A kind of folder. recognize: None where a folder is not of this kind; ValueError where it is, and is unfit."""

    name: str
    expected: str
    recognize: Callable[[Path], Recognized | None]


def layouts() -> dict[str, Layout]:
    """Every layout by name, in the order in which a folder is compared with them."""
    found = [
        *(
            Layout(name, dataset.layout.expected(), partial(recognize_published, name=name))
            for name, dataset in SEGMENTATION_DATASETS.items()
            if name != "pascal_voc"
        ),
        Layout("folder", "<root>/images/{train,val}/* and <root>/masks/{train,val}/*.png", recognize_folder),
        *_detection_layouts(),
        Layout("csv", "<root>/train.csv with the columns image,label and <root>/train_images/*", recognize_table),
        Layout(
            "class_folders",
            "<root>/{train,val}/<class>/<image> or <root>/<class>/<image>",
            recognize_class_folders,
        ),
    ]
    return {layout.name: layout for layout in found}


def recognize(root: Path | str, layout: str | None = None) -> Recognized:
    """Recognize what is in a folder.

    Args:
        root: the folder.
        layout: the name of a layout, where the folder is to be read as that one; None: the first that fits.

    Raises:
        UnknownLayoutError: the folder does not exist or is no data set that is known here; at most five lines.
        UnfitDataError: it is one, and nothing can be learned from it or what it means cannot be found out; one line.
        ValueError: an unknown layout.
    """
    root = Path(root)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise UnknownLayoutError([f"data folder {root} {what}; check the path"])
    known = layouts()
    if layout is not None:
        if layout not in known:
            raise ValueError(f"unknown layout {layout!r}; {did_you_mean(layout, known)}")
        found = _ask(known[layout], root)
        if found is None:
            lines = (f"{root} is not in the layout {layout}", f"found: {_content(root)}")
            raise UnknownLayoutError([*lines, f"expected: {known[layout].expected}"])
        return found
    for kind in known.values():
        found = _ask(kind, root)
        if found is not None:
            return found
    raise UnknownLayoutError(_refusal(root))


def _ask(kind: Layout, root: Path) -> Recognized | None:
    try:
        found = kind.recognize(root)
        if found is not None and found.task == "classification":
            refuse_unlearnable(root, found.classes)
        if found is not None:
            found.notes.extend(found.doubts())
    except ValueError as error:
        raise UnfitDataError(kind.name, str(error)) from error
    return found


def _detection_layouts() -> list[Layout]:
    return [
        Layout(reader.name, reader.expected, partial(recognize_objects, layout=reader.name))
        for reader in READERS.values()
    ]


def _refusal(root: Path) -> list[str]:
    """What was found, what is nearest and what is missing, and what helps."""
    nearest, missing, advice = _nearest(root)
    return [
        f"{root} is no data set that is known here",
        f"found: {_content(root)}",
        f"nearest: {nearest}; missing: {missing}",
        f"try: {advice}",
        f"all layouts: {_DOCUMENT}",
    ]


def _nearest(root: Path) -> tuple[str, str, str]:
    """The nearest layout, what is missing from it, and one command or step that helps."""
    entries = sorted(root.iterdir())
    folders = [entry for entry in entries if entry.is_dir() and not is_hidden(entry.name)]
    names = {entry.name.lower() for entry in folders}
    files = [entry for entry in entries if entry.is_file()]
    endings = {entry.suffix.lower() for entry in files}
    check = f"a2mamba data check {shlex.quote(str(root))}"
    if "meta.json" in {entry.name for entry in files} or any((folder / "ann").is_dir() for folder in folders):
        return "a Supervisely project", "a reader for it", "export it from Supervisely as COCO or Pascal VOC"
    deep = _deep(root)
    if deep is not None:
        up = shlex.quote(str(deep.parents[1]))
        return (
            "class folders (<class>/<image>)",
            f"images right in them; they lie a folder deeper, as {deep}",
            f"move them up to {up}, or each folder of them beside it as a class of its own",
        )
    inside = [entry for entry in (*folders, *_only_folders(folders)) if _is_known(entry)]
    if inside:
        return f"a data set in {inside[0]}", "its path", f"a2mamba fit {shlex.quote(str(inside[0]))}"
    if endings & _ARCHIVES:
        archive = next(entry for entry in files if entry.suffix.lower() in _ARCHIVES)
        if archive.suffix == ".tar":
            source = f"a2mamba train finetune data.source=tar data.root={shlex.quote(str(root))}"
            return "tar files of class folders", "a recipe that reads them", source
        return "an archive", "its content", f"unpack {archive.name}, then {check}"
    table = table_advice(root)
    if table is not None:
        return table
    beside = find_annotations(root)
    if beside is not None:
        tree = scan_classes(root / (class_splits(root)[0] or ""))
        if len([name for name, count in tree.counts.items() if count]) > 1:
            return (
                f"class folders, with {beside} beside the images",
                f"annotations in a form that is known: class folders have none, and {beside.name} is of no known form",
                f"move such files elsewhere where the folders are the classes, then {check}",
            )
    export = _annotation_export(root, folders)
    if export is not None:
        return (
            f"images with annotations ({export})",
            "annotations in a form that is known",
            "export them as COCO, YOLO or Pascal VOC from the tool that made them",
        )
    if names & {"images", "imgs", "img", "img_dir", "jpegimages"} or any(
        (folder / kind).is_dir() for folder in folders for kind in ("images", "img") if split_role(folder.name)
    ):
        labels = _labels_of_no_form(folders)
        if labels is not None:
            return (
                "images with labels (images/* beside masks/* or labels/*)",
                f"labels in a form that is known; {labels} is in none",
                f"export them as PNG masks, YOLO or COCO, then {check}",
            )
        return (
            "images with masks (images/{train,val} and masks/{train,val})",
            "masks with the images' names",
            f"put them in {shlex.quote(str(root / 'masks'))}, then {check}",
        )
    splits = [entry.name for entry in folders if split_role(entry.name)]
    if splits and not any(name.lower() in TRAIN_NAMES for name in splits):
        return "class folders in splits", f"{root / 'train'}/<class>/<image>", f"rename a folder to train, then {check}"
    if names & LABEL_KINDS:
        kind = next(entry for entry in folders if entry.name.lower() in LABEL_KINDS)
        return (
            "images with masks",
            f"the images; {kind} alone has masks",
            f"put them in {shlex.quote(str(root / 'images'))}",
        )
    if any(entry.suffix.lower() in IMAGE_EXTENSIONS for entry in files) or splits:
        where = root / splits[0] if splits else root
        return "class folders", "a folder for each class", f"move the images to {shlex.quote(str(where))}/<class>/"
    return "class folders (<class>/<image>)", "images", f"{check} once there are some"


def _annotation_export(root: Path, folders: list[Path]) -> Path | None:
    """A file that an annotation tool may have written, in the data set or in the folder of a split; None without."""
    places = (root, *(folder for folder in folders if split_role(folder.name)))
    files = (file for place in places for file in sorted(place.iterdir()) if file.suffix.lower() in _EXPORTS)
    return next((file for file in files if file.is_file() and not is_hidden(file.name)), None)


def _labels_of_no_form(folders: list[Path]) -> Path | None:
    """A file in a folder of labels or masks, right in the data set or in a split; None where they are empty."""
    inner = [entry for folder in folders if split_role(folder.name) for entry in folder.iterdir() if entry.is_dir()]
    kinds = [folder for folder in (*folders, *inner) if folder.name.lower() in LABEL_KINDS]
    found = (folder / place / name for folder in kinds for place, names in folders_below(folder) for name in names)
    return next(found, None)


def _deep(root: Path) -> Path | None:
    """An image one folder below class folders, none of which has images right in it."""
    train, _ = class_splits(root)
    if has_annotations(root) or (train is None and any(split_role(folder.name) for folder in root.iterdir())):
        return None
    tree = scan_classes(root / (train or ""))
    depth = len((root / (train or "")).parts) + 3
    deep = [path for path in map(Path, tree.strays) if len(path.parts) == depth]
    several = len({path.parts[depth - 3] for path in deep}) > 1
    return deep[0] if deep and several and not tree.samples else None


def _only_folders(folders: list[Path]) -> list[Path]:
    """The folders that lie alone in one of the folders: archives often hold their name once more."""
    inner = [
        [entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)] for folder in folders
    ]
    return [found[0] for found in inner if len(found) == 1]


def _is_known(folder: Path) -> bool:
    """Whether a folder below looks like a data set, without a look into its files."""
    if find_folders(folder) is not None or any(reader.find(folder) for reader in READERS.values()):
        return True
    found = None if split_role(folder.name) else recognize_class_folders(folder)
    return found is not None and len(found.classes) > 1


def _content(root: Path) -> str:
    """What is in a folder, in a few words."""
    with os.scandir(root) as entries:
        found = sorted((entry.is_dir(), entry.name) for entry in entries if not is_hidden(entry.name))
    folders = [f"{name}/" for is_folder, name in found if is_folder]
    images = [name for is_folder, name in found if not is_folder and name.lower().endswith(IMAGE_EXTENSIONS)]
    others = [name for is_folder, name in found if not is_folder and not name.lower().endswith(IMAGE_EXTENSIONS)]
    parts = [some(folders, 6)] if folders else []
    parts += [f"{len(images)} images"] if images else []
    parts += [some(others, 4)] if others else []
    return "; ".join(parts) or "nothing"
