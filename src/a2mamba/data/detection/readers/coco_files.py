"""Where COCO's annotation files and their images lie in a folder, under whatever names."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from a2mamba.data.detection.readers.coco_json import look_at_bytes
from a2mamba.data.detection.readers.image_files import folders_of
from a2mamba.data.splits import TRAIN_NAMES, VAL_NAMES
from a2mamba.data.walk import images_below

_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco.json"
_FILES = 50  # folders with more JSON files hold one for each image: another format
_SAMPLE = 16  # file names that decide which folder is that of the images
# Lists of lists, run lengths, or one list of six numbers or more, see masks.py.
_SEGMENTATION = re.compile(rb'"segmentation"\s*:\s*(\[\s*\[|\{|\[(\s*[-+.eE\d]+\s*,){5})')
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")')


def annotation_files(root: Path) -> list[Path]:
    """The files in a folder that hold, or by their names should hold, COCO's objects."""
    folders = [root, *folders_of(root)]
    folders += [inner for folder in folders[1:] for inner in (folder / "annotations", folder / "Annotations")]
    files: list[Path] = []
    for folder in folders:
        found = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if 0 < len(found) <= _FILES:
            # Names say it of damaged files, too, which are then refused by name.
            named = {file for file in found if file.name == _ROBOFLOW or file.name.startswith(_PREFIX)}
            found = [file for file in found if file in named or look_at_bytes(file, _is_coco, False)]
            # Beside COCO's instances lie keypoints, captions and stuff of the same images.
            files += [file for file in found if file.name.startswith(_PREFIX)] or found
    return files


def training_file(file: Path) -> Path | None:
    """The training file beside an evaluation file, by its name; None where there is none."""
    if file.name == _ROBOFLOW:
        candidates = [file.parent.with_name(name) / file.name for name in TRAIN_NAMES]
    else:
        pattern = rf"(?<![A-Za-z])({'|'.join(VAL_NAMES)})(?![A-Za-z])"
        candidates = [file.with_name(re.sub(pattern, name, file.name, flags=re.IGNORECASE)) for name in TRAIN_NAMES]
    return next((other for other in candidates if other != file and other.is_file()), None)


def split_name(file: Path, root: Path) -> str:
    """A name for the split: from the file's name, or from its folder's."""
    stem = file.name.removesuffix(".json").removeprefix(_PREFIX)
    if file.name.startswith(_PREFIX):
        return stem
    known = (*TRAIN_NAMES, *VAL_NAMES)
    for part in (*re.split(r"[^A-Za-z0-9]+", stem), *(folder.name for folder in file.parents if folder != root)):
        if re.fullmatch(rf"({'|'.join(known)})\d*", part.lower()):
            return part
    return stem


def image_folder(root: Path, file: Path, split: str, names: Sequence[str]) -> Path:
    """The folder in which most of some of the images lie."""
    plain = re.sub(r"\d+$", "", split)
    candidates = [
        *(root / part for name in (split, plain) for part in (name, f"images/{name}", f"{name}/images")),
        *(file.parent / part for part in ("", "images", "data")),
        *(root / part for part in ("images", "Images", "JPEGImages", "data", "img", "")),
    ]
    sample = [name.replace("\\", "/") for name in names[:: max(1, len(names) // _SAMPLE)]]
    found = [sum((folder / name).is_file() for name in sample) for folder in candidates]
    if max(found, default=0) > 0:
        return candidates[int(np.argmax(found))]
    below = {PurePosixPath(name).name for name in images_below(root)}
    if any(PurePosixPath(name).name in below for name in sample):
        return root
    return next((folder for folder in candidates[:6] if folder.is_dir()), root / split)


def listed_images(file: Path) -> list[str]:
    """The names of images in a file, without parsing it."""
    return look_at_bytes(file, lambda text: [str(json.loads(name)) for name in _FILE_NAME.findall(text)], [])


def has_masks(file: Path) -> bool:
    """Whether any object of a file seems to have a mask, without parsing it."""
    return look_at_bytes(file, lambda text: _SEGMENTATION.search(text) is not None, False)


def _is_coco(text: mmap.mmap) -> bool:
    keys = (b'"images"', b'"annotations"', b'"categories"', b'"file_name"')
    return all(text.find(key) >= 0 for key in keys) and text.find(b'"segments_info"') < 0
