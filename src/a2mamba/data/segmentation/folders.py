"""Finding images and masks in a folder of one's own, in the arrangements and under the names that people use.

images/{train,val}  masks/{train,val}     and img_dir, ann_dir, labels, annotations, ...
{train,val}/images  {train,val}/masks     under the same names
train  train_masks  val  val_masks        folders side by side
images  masks                             no splits: a part is held out
cat.jpg  cat_mask.png                     masks beside their images, in split folders or in one
JPEGImages  SegmentationClass             Pascal VOC's, with or without lists in ImageSets/Segmentation
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.names import is_hidden, plain_name
from a2mamba.data.segmentation.files import LABEL_EXTENSIONS, SegmentationLayout
from a2mamba.data.splits import TEST_NAMES, TRAIN_NAMES, VAL_NAMES, find_splits
from a2mamba.data.walk import leads_back

_IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "original", "originals", "input", "inputs", "rgb")
_LABELS = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "ann", "segmentationclass"),
    *("segmentationclasspng", "segmentation", "segmentations", "ground_truth", "groundtruth", "gt", "targets"),
)
_BESIDE = ("_mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt", "-mask", "_L", "_labelids")
_BEGINNINGS = tuple(
    (image, label)
    for label in ("mask_", "label_", "mask", "label", "gt_")
    for image in ("image_", "img_", "image", "img")
)
_SIDE_BY_SIDE = ("_masks", "_mask", "_labels", "_label", "annot", "_annot", "_annotations", "_gt")
_LOOKED_AT = 2000  # files of a folder, to find out what is in it
_LISTS = "ImageSets/Segmentation"


def find_folders(root: Path) -> SegmentationLayout | None:
    """Where images and masks are under root; None where neither arrangement is there."""
    folders = _folders(root)
    for find in (_listed, _by_kind, _by_split, _side_by_side, _flat, _beside):
        layout = find(root, folders)
        if layout is not None:
            return layout
    return None


def half_splits(root: Path, layout: SegmentationLayout) -> list[Path]:
    """Folders of a validation split's images without masks, or the other way round; test images may be without."""
    halves = []
    for split in VAL_NAMES:
        pair = layout.folders(root, split)
        there = [folder for folder in pair if folder.is_dir()]
        if len(there) == 1 and pair[0] != pair[1] and split not in TEST_NAMES:
            halves += there
    return halves


def _listed(root: Path, folders: dict[str, str]) -> SegmentationLayout | None:
    """Pascal VOC's arrangement with its lists."""
    lists = root / _LISTS
    if not lists.is_dir():
        return None
    train, val = find_splits(file.stem for file in lists.glob("*.txt"))
    if train is None and (lists / "trainval.txt").is_file():
        train = "trainval"
    if train is None:
        return None
    for images, labels in _kinds(folders):
        if _has_labels(root / labels):
            return _layout(root, images, labels, train, val, lists=f"{_LISTS}/{{split}}.txt")
    return None


def _by_kind(root: Path, folders: dict[str, str]) -> SegmentationLayout | None:
    for images, labels in _kinds(folders):
        both = set(_folders(root / images).values()) & set(_folders(root / labels).values())
        train, val = find_splits(both)
        some_split = train or val  # a validation split alone can be evaluated on
        if some_split is not None and _has_labels(root / labels / some_split):
            return _layout(root, f"{images}/{{split}}", f"{labels}/{{split}}", train or "train", val)
    return None


def _by_split(root: Path, folders: dict[str, str]) -> SegmentationLayout | None:
    train, val = find_splits(folders.values())
    if train is None:
        return None
    for images, labels in _kinds(_folders(root / train)):
        if _has_labels(root / train / labels):
            whole = val is not None and all((root / val / kind).is_dir() for kind in (images, labels))
            return _layout(root, f"{{split}}/{images}", f"{{split}}/{labels}", train, val if whole else None)
    return None


def _side_by_side(root: Path, folders: dict[str, str]) -> SegmentationLayout | None:
    for train in TRAIN_NAMES:
        for images in ("", "_images", "_image", "_imgs"):
            for labels in _SIDE_BY_SIDE:
                pair = folders.get(train + images), folders.get(train + labels)
                if pair[0] is None or pair[1] is None or not _has_labels(root / pair[1]):
                    continue
                name = pair[0][: len(train)]
                ends = pair[0][len(train) :], pair[1][len(train) :]
                val = next(
                    (
                        folders[other + images][: len(other)]
                        for other in VAL_NAMES
                        if other + images in folders and other + labels in folders
                    ),
                    None,
                )
                return _layout(root, "{split}" + ends[0], "{split}" + ends[1], name, val)
    return None


def _flat(root: Path, folders: dict[str, str]) -> SegmentationLayout | None:
    for images, labels in _kinds(folders):
        if _has_labels(root / labels) and _some_files(root / images, IMAGE_EXTENSIONS):
            return _layout(root, images, labels, ".", None)
    return None


def _beside(root: Path, folders: dict[str, str]) -> SegmentationLayout | None:
    train, val = find_splits(folders.values())
    place = root if train is None else root / train
    stems = {Path(name).with_suffix("").as_posix() for name in _some_files(place, IMAGE_EXTENSIONS)}
    for ending in _BESIDE:
        labels = [stem for stem in stems if stem.endswith(ending)]
        if labels and all(stem.removesuffix(ending) in stems for stem in labels) and 2 * len(labels) >= len(stems):
            where = "." if train is None else "{split}"
            return SegmentationLayout(
                where, where, train or ".", val, label_ending=ending, label_extensions=LABEL_EXTENSIONS
            )
    return None


def _layout(
    root: Path, images: str, labels: str, train: str, val: str | None, *, lists: str | None = None
) -> SegmentationLayout:
    """The layout, with the endings by which its masks differ from their images, if they do."""
    plain = SegmentationLayout(images, labels, train, val, lists=lists, label_extensions=LABEL_EXTENSIONS)
    image_folder, masks = plain.folders(root, train)
    stems = {Path(name).with_suffix("").as_posix() for name in _some_files(image_folder, IMAGE_EXTENSIONS)}
    plain_stems = {plain_name(stem) for stem in stems}
    label_stems = [Path(name).with_suffix("").as_posix() for name in _some_files(masks, LABEL_EXTENSIONS)]
    for ending in ("", *_BESIDE):
        if any(stem.endswith(ending) and plain_name(stem.removesuffix(ending)) in plain_stems for stem in label_stems):
            return replace(plain, label_ending=ending)
    for image, label in _BEGINNINGS:
        if any(Path(stem).name.startswith(label) and stem.replace(label, image, 1) in stems for stem in label_stems):
            return replace(plain, beginnings=(image, label))
    return plain


def _kinds(folders: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Folders of images and of labels, by their usual names."""
    for images in _IMAGES:
        for labels in _LABELS:
            if images in folders and labels in folders:
                yield folders[images], folders[labels]


def _folders(folder: Path) -> dict[str, str]:
    """Names of the folders in a folder, by their lower-case form; hidden ones are left out."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not is_hidden(entry.name) and entry.is_dir())
    return {name.lower(): name for name in reversed(names)}


def _has_labels(folder: Path) -> bool:
    """Whether a folder holds mask images: labels of other kinds (.txt, .xml, .json) lie in folders of these names."""
    return bool(_some_files(folder, LABEL_EXTENSIONS))


def _some_files(folder: Path, extensions: tuple[str, ...]) -> list[str]:
    """Files in a folder, or below it where it holds none itself; of some thousands in each, at most."""
    found: list[str] = []
    places = [""]
    for place in places:  # which grows
        if not (folder / place).is_dir() or len(places) > _LOOKED_AT:
            break
        with os.scandir(folder / place) as entries:
            for entry in islice(entries, _LOOKED_AT):
                name = f"{place}{entry.name}"
                if is_hidden(entry.name):
                    continue
                if entry.name.lower().endswith(extensions):
                    found.append(name)
                elif entry.is_dir() and not leads_back(folder, str(folder / place), entry.name):
                    places.append(f"{name}/")
        if found and (not place or len(found) >= _LOOKED_AT):
            break
    return found
