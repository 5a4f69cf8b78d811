"""Which image and which label file belong together.

A `SegmentationLayout` says where the splits of a data set keep both; `scan` walks one split of it. Published data sets
have theirs in `datasets`; `folders` finds that of a folder of one's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from a2mamba.data.names import plain_name, some
from a2mamba.data.text import read_lines
from a2mamba.data.walk import files_below, images_below

LOSSY_EXTENSIONS = (".jpg", ".jpeg")
LABEL_EXTENSIONS = (".png", ".bmp", ".gif", ".tif", ".tiff", *LOSSY_EXTENSIONS)
"""File extensions that label files may have; see `conventions` for what becomes of JPEG's smoothed numbers."""


@dataclass(frozen=True)
class SegmentationLayout:
    """Where a data set keeps its images and its label files; {split} in a path stands for the split's name."""

    images: str
    """folder of a split's images, under root"""
    labels: str
    """folder of a split's label files, under root"""
    train_split: str
    """name of the training split"""
    val_split: str | None
    """name of the validation split; None: there is none, and images have to be held out"""
    image_ending: str = ""
    """end of every image's stem"""
    label_ending: str = ""
    """end of every label file's stem"""
    converted_ending: str | None = None
    """end of the stem of label files that hold class indices already"""
    lists: str | None = None
    """text file with the stems of a split, one a line; None: folders are splits"""
    label_extensions: tuple[str, ...] = (".png",)
    """of label files"""
    beginnings: tuple[str, str] = ("", "")
    """of the names of images and of label files, before what they share"""

    def folders(self, root: Path, split: str) -> tuple[Path, Path]:
        """The folders of the images and of the label files of a split."""
        return root / self.images.format(split=split), root / self.labels.format(split=split)

    def has(self, root: Path, split: str) -> bool:
        """Whether root has what a split needs."""
        listed = self.lists is None or (root / self.lists.format(split=split)).is_file()
        return listed and all(folder.is_dir() for folder in self.folders(root, split))

    def expected(self) -> str:
        """The shape of the folders, for messages."""
        splits = [split for split in (self.train_split, self.val_split) if split is not None]
        choice = f"{{{','.join(splits)}}}" if len(splits) > 1 else splits[0]
        images, labels = (f"<root>/{text}".replace("{split}", choice) for text in (self.images, self.labels))
        city = "<city>/" if self.images.startswith("leftImg8bit") else ""
        lists = "" if self.lists is None else f", listed in <root>/{self.lists.replace('{split}', choice)}"
        return f"{images}/{city}<name>{self.image_ending}.* and {labels}/{city}<name>{self.label_ending}.png{lists}"


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
        label_doubles: label files of an image that has another one.
    """

    images: Path
    labels: Path
    pairs: list[SegmentationPair]
    images_alone: list[str]
    labels_alone: list[str]
    doubles: list[str]
    label_doubles: list[str]


def scan(root: Path, layout: SegmentationLayout, split: str) -> SegmentationFiles:
    """Walk the images and the label files of one split; folders inside the split's may be nested.

    Raises:
        ValueError: the folder of the images or of the labels does not exist, or the list of the split.
    """
    from timm.utils import natural_key

    images, labels = layout.folders(root, split)
    for folder in (images, labels):
        _require(folder, root, layout)
    listed = None if layout.lists is None else _listed(root / layout.lists.format(split=split))
    together = images == labels  # label files beside their images: the ending tells them apart
    files: dict[bool, dict[str, str]] = {False: {}, True: {}}
    label_doubles = []
    for name in files_below(labels, layout.label_extensions):
        stem = _without(name.removesuffix(Path(name).suffix), layout.beginnings[1])
        converted = layout.converted_ending is not None and stem.endswith(layout.converted_ending)
        ending = (layout.converted_ending or "") if converted else layout.label_ending
        if not stem.endswith(ending):
            continue
        stem = stem.removesuffix(ending)
        if files[converted].setdefault(stem, name) != name and (listed is None or stem in listed):
            label_doubles.append(str(labels / name))
    pairs: list[SegmentationPair] = []
    images_alone, doubles = [], []
    paired: set[str] = set()
    # Names that differ in case alone are ties; broken like this, the order is the same on any machine.
    names = sorted(images_below(images), key=lambda name: (natural_key(name), name))
    stems = [
        _without(name.removesuffix(Path(name).suffix), layout.beginnings[0]).removesuffix(layout.image_ending)
        for name in names
    ]
    alike = _alike(set(stems), files)
    for name, stem in zip(names, stems, strict=True):
        whole = name.removesuffix(Path(name).suffix)
        if (listed is not None and stem not in listed) or (together and whole.endswith(layout.label_ending)):
            continue
        if stem not in files[True] and stem not in files[False]:
            stem = alike.get(plain_name(stem), stem)
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
    if listed is not None:
        images_alone += [f"{stem} (listed)" for stem in sorted(listed - paired - {Path(i).stem for i in images_alone})]
        alone = {stem: name for stem, name in alone.items() if stem in listed}
    labels_alone = [str(labels / name) for name in sorted(alone.values())]
    return SegmentationFiles(images, labels, pairs, images_alone, labels_alone, doubles, label_doubles)


def _alike(images: set[str], labels: dict[bool, dict[str, str]]) -> dict[str, str]:
    """Stems of label files that are no image's, by their plain names, where these are of one.

    Tools and systems change case and the form of accents; what differs in these alone belongs together.
    """
    found: dict[str, set[str]] = {}
    for stem in {stem for group in labels.values() for stem in group} - images:
        found.setdefault(plain_name(stem), set()).add(stem)
    return {plain: stems.pop() for plain, stems in found.items() if len(stems) == 1}


def _without(stem: str, beginning: str) -> str:
    """A path without the beginning of its last part."""
    folder, slash, name = stem.rpartition("/")
    return folder + slash + name.removeprefix(beginning)


def _listed(file: Path) -> set[str]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist; expected the names of the split's images, one a line")
    # Lists of one class have a second column.
    return {line.split()[0] for line in read_lines(file)}


def _require(folder: Path, root: Path, layout: SegmentationLayout) -> None:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ValueError(f"data folder {root} {what}; expected {layout.expected()}; check the path")
    if not folder.is_dir():
        above = folder.parent if folder.parent.is_dir() else root
        folders = sorted(entry.name for entry in above.iterdir() if entry.is_dir())
        found = f"folders {some(folders)}" if folders else "no folders"
        raise ValueError(
            f"data folder {folder} does not exist; {above} holds {found}; "
            f"expected {layout.expected()}; check the path, the layout and the split's name"
        )
