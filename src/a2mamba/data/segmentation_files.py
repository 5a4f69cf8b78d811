"""Where the segmentation data sets keep images and label files, and which belong together.

    ade20k       images/{training,validation}/*.jpg          annotations/{training,validation}/*.png
    cityscapes   leftImg8bit/{train,val}/<city>/*_leftImg8bit.png
                 gtFine/{train,val}/<city>/*_gtFine_labelIds.png, or *_gtFine_labelTrainIds.png
    coco_stuff   images/{train2017,val2017}/*.jpg   annotations/{train2017,val2017}/*.png, or *_labelTrainIds.png
    folder       images/{train,val}/*                        masks/{train,val}/*.png

*TrainIds files hold class indices, as `a2mamba data convert` writes them; they are preferred where they exist.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from a2mamba.data.images import IMAGE_EXTENSIONS
from a2mamba.data.names import some


class SegmentationLayout(NamedTuple):
    """Where a data set keeps its images and its label files."""

    images: str
    """folder under root with the splits' images"""
    labels: str
    """folder under root with the splits' label files"""
    train_split: str
    """folder of the training split under both"""
    val_split: str
    """folder of the validation split under both"""
    image_ending: str = ""
    """end of every image's stem"""
    label_ending: str = ""
    """end of every label file's stem"""
    converted_ending: str | None = None
    """end of the stem of label files that hold class indices already"""


SEGMENTATION_LAYOUTS = {
    "ade20k": SegmentationLayout("images", "annotations", "training", "validation"),
    "cityscapes": SegmentationLayout(
        "leftImg8bit", "gtFine", "train", "val", "_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds"
    ),
    "coco_stuff": SegmentationLayout(
        "images", "annotations", "train2017", "val2017", converted_ending="_labelTrainIds"
    ),
    "folder": SegmentationLayout("images", "masks", "train", "val"),
}


class SegmentationPair(NamedTuple):
    """An image, its label file, and whether that holds class indices already."""

    image: str
    label: str
    converted: bool


@dataclass(frozen=True)
class SegmentationFiles:
    """What a walk through one split found; says nothing about whether it is fit for use.

    Args:
        images: the split's folder of images.
        labels: the split's folder of label files.
        pairs: in natural order of the images.
        images_alone: images without a label file.
        labels_alone: label files without an image.
        doubles: images that share their label file with another one.
    """

    images: Path
    labels: Path
    pairs: list[SegmentationPair]
    images_alone: list[str]
    labels_alone: list[str]
    doubles: list[str]


def scan_segmentation(root: Path | str, layout: str, split: str) -> SegmentationFiles:
    """Walk the images and the label files of one split; folders inside the split's may be nested.

    Raises:
        ValueError: the folder of the images or of the labels does not exist.
    """
    from timm.utils import natural_key

    shape = SEGMENTATION_LAYOUTS[layout]
    images, labels = (_split_folder(Path(root), kind, split, layout) for kind in (shape.images, shape.labels))
    files: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for name in list_files(labels, (".png",)):
        stem = name.removesuffix(Path(name).suffix)
        if shape.converted_ending is not None and stem.endswith(shape.converted_ending):
            files[True][stem.removesuffix(shape.converted_ending)] = name
        elif stem.endswith(shape.label_ending):
            files[False][stem.removesuffix(shape.label_ending)] = name
    pairs: list[SegmentationPair] = []
    images_alone, doubles = [], []
    paired: set[str] = set()
    # Names that differ in case alone are ties; broken like this, the order is the same on any machine.
    for name in sorted(list_files(images, IMAGE_EXTENSIONS), key=lambda name: (natural_key(name), name)):
        stem = name.removesuffix(Path(name).suffix).removesuffix(shape.image_ending)
        if stem in paired:
            doubles.append(str(images / name))
            continue
        converted = stem in files[True]
        label = files[converted].get(stem)
        if label is None:
            images_alone.append(str(images / name))
        else:
            paired.add(stem)
            pairs.append(SegmentationPair(str(images / name), str(labels / label), converted))
    alone = {stem: name for group in files.values() for stem, name in group.items() if stem not in paired}
    labels_alone = [str(labels / name) for name in sorted(alone.values())]
    return SegmentationFiles(images, labels, pairs, images_alone, labels_alone, doubles)


def expected_layout(layout: str) -> str:
    """The shape of a layout's folders, for messages."""
    shape = SEGMENTATION_LAYOUTS[layout]
    splits = f"{{{shape.train_split},{shape.val_split}}}"
    city = "<city>/" if layout == "cityscapes" else ""
    return (
        f"<root>/{shape.images}/{splits}/{city}<name>{shape.image_ending}.* "
        f"and <root>/{shape.labels}/{splits}/{city}<name>{shape.label_ending}.png"
    )


def _split_folder(root: Path, kind: str, split: str, layout: str) -> Path:
    expected = f"layout {layout!r} is {expected_layout(layout)}"
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ValueError(f"data folder {root} {what}; {expected}; check the path")
    folder = root / kind / split
    if not folder.is_dir():
        above = folder.parent if folder.parent.is_dir() else root
        folders = sorted(entry.name for entry in above.iterdir() if entry.is_dir())
        found = f"folders {some(folders)}" if folders else "no folders"
        raise ValueError(
            f"data folder {folder} does not exist; {above} holds {found}; "
            f"{expected}; check the path, the layout and the split's name"
        )
    return folder


def list_files(folder: Path, extensions: tuple[str, ...]) -> list[str]:
    """Files below a folder, relative to it, with "/" between; hidden files and folders are left out."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        above = Path(place).relative_to(folder).as_posix()
        prefix = "" if above == "." else f"{above}/"
        found += [prefix + name for name in names if not name.startswith(".") and name.lower().endswith(extensions)]
    return found
