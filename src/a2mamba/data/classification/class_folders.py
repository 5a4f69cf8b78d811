"""Images with one class each, in class folders: root/split/<class>/<image>.

Classes are in timm's order. Decoding is our own: timm's data set replaces an undecodable image by its neighbor, and a
run should say which file is bad instead.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, decode_image, image_mode
from a2mamba.data.names import is_hidden, some
from a2mamba.data.splits import heldout as heldout_mask
from a2mamba.data.walk import folders_below


class ImageSample(NamedTuple):
    """One image: image (C, H, W), class index, and the file it came from."""

    image: Tensor
    target: int
    path: str


class ImageFolder(Dataset[ImageSample]):
    """The images of one split, decoded completely when asked for.

    Args:
        reader: as timm's readers: indexing gives (file opened for bytes, class index), `filename` the file's name.
        classes: class names in index order.
        transform: an image -> tensor (C, H, W); None gives uint8 pixels.
        in_chans: channels to decode to, see `ClassificationData`.
    """

    def __init__(
        self,
        reader: Any,
        *,
        classes: Sequence[str],
        transform: Callable[[Image.Image], Tensor] | None = None,
        in_chans: int = 3,
    ) -> None:
        from torchvision.transforms.functional import pil_to_tensor

        self.reader = reader
        self.classes = list(classes)
        self.transform = transform or pil_to_tensor
        self.mode = image_mode(in_chans)

    def __len__(self) -> int:
        return len(self.reader)

    def path(self, index: int) -> str:
        """The file name of a sample."""
        return self.reader.filename(index, absolute=True)

    def part(self, share: float, *, heldout: bool) -> ImageFolder:
        """The held-out part, or the others: `share` of each class, at least one image, and never the last one.

        Which images these are depends on their order and number alone, so that every run holds out the same.

        Raises:
            ValueError: a class has a single image, which cannot be on both sides.
        """
        targets = getattr(self.reader, "targets", None)
        targets = np.asarray([target for _, target in self.reader.samples] if targets is None else targets)
        chosen = np.zeros(len(targets), dtype=bool)
        for label in np.unique(targets):
            members = np.flatnonzero(targets == label)
            if len(members) < 2:
                raise ValueError(
                    f"class {self.classes[label]!r} has one image, so that none can be held out; add images to it"
                )
            chosen[members] = heldout_mask(len(members), share, stream=int(label))
        kept = copy.copy(self)
        kept.reader = _Part(self.reader, np.flatnonzero(chosen if heldout else ~chosen))
        return kept

    def numbered(self, classes: Sequence[str]) -> ImageFolder:
        """The same images, with the class indices of another list, which has all of their classes."""
        kept = copy.copy(self)
        kept.reader = _Numbered(self.reader, [classes.index(name) if name in classes else -1 for name in self.classes])
        kept.classes = list(classes)
        return kept

    def __getitem__(self, index: int) -> ImageSample:
        """Decode and transform one image.

        Raises:
            UndecodableImageError: naming the file.
        """
        path = self.path(index)
        try:
            file, target = self.reader[index]
        except OSError as error:
            raise UndecodableImageError(path, error.strerror or "unreadable") from error
        with file:
            image = decode_image(file, name=path, mode=self.mode)
        return ImageSample(self.transform(image), int(target), path)


@dataclass(frozen=True)
class ClassTree:
    """What a walk through the class folders of one split found; says nothing about whether it is fit for use.

    Args:
        folder: the split's folder.
        classes: names of its class folders, hidden ones left out, in the order of their indices.
        samples: (file, class index) of every image file that lies directly in a class folder.
        strays: image files that lie in no class folder or deeper than one level.
    """

    folder: Path
    classes: list[str]
    samples: list[tuple[str, int]]
    strays: list[str]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class, zeros included."""
        counts = [0] * len(self.classes)
        for _, target in self.samples:
            counts[target] += 1
        return dict(zip(self.classes, counts, strict=True))


class SampleReader:
    """Files and their classes, in the form of timm's readers."""

    def __init__(self, samples: Sequence[tuple[str, int]]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        file, target = self.samples[index]
        return Path(file).open("rb"), target

    def filename(self, index: int, *, absolute: bool = False) -> str:
        """The name of the file."""
        file = self.samples[index][0]
        return file if absolute else Path(file).name


def scan_classes(folder: Path) -> ClassTree:
    """Walk the class folders of one split.

    Args:
        folder: holds one folder for each class.

    Raises:
        ValueError: the folder does not exist.
    """
    names = _class_folders(folder)
    indices = {name: index for index, name in enumerate(names)}
    samples, strays = [], []
    for place, files in folders_below(folder):
        images = [os.path.join(folder, place, name) for name in files if name.lower().endswith(IMAGE_EXTENSIONS)]
        if place in indices:
            samples += [(image, indices[place]) for image in images]
        else:
            # timm would name the class after the innermost folder, torchvision after the outermost: no guess here.
            strays += images
    samples.sort(key=lambda sample: (sample[1], sample[0]))  # the same on any machine
    return ClassTree(folder, names, samples, sorted(strays))


def image_folder(
    root: Path | str,
    split: str | None,
    *,
    transform: Callable[[Image.Image], Tensor] | None = None,
    in_chans: int = 3,
    allow_empty: bool = False,
) -> ImageFolder:
    """The images under root/split/class/.

    Args:
        root: folder that holds the splits.
        split: folder under root; None when root itself holds the class folders.
        transform: an image -> tensor (C, H, W); None gives uint8 pixels.
        in_chans: 1, 3 or 4 channels.
        allow_empty: leave class folders without images out, as long as there are others.

    Raises:
        ValueError: the folder is missing or holds no class folders, a class folder holds no images, or images lie
            outside of class folders; the message names them.
    """
    folder = _split_folder(Path(root), split)
    tree = scan_classes(folder)
    expected = f"expected {folder}/<class>/<image>"
    if tree.strays:
        raise ValueError(f"images outside of class folders: {some(tree.strays)}; {expected}; move or remove them")
    if not tree.classes:
        raise ValueError(f"{folder} holds no class folders; {expected}")
    empty = [name for name, count in tree.counts.items() if count == 0]
    if empty and not (allow_empty and tree.samples):
        what = "no class folder holds" if len(empty) == len(tree.classes) else "class folders without"
        inside = [folder / name for name in empty if (folder / name).is_dir()]
        extensions = sorted({file.suffix for place in inside for file in place.iterdir() if file.suffix})
        found = f" (files there end in {some(extensions)})" if extensions else ""
        raise ValueError(
            f"{what} images in {folder}: {some(empty)}{found}; add images ({' '.join(IMAGE_EXTENSIONS)}) "
            f"or remove the folders"
        )
    kept = [name for name in tree.classes if name not in set(empty)]
    numbers = {index: kept.index(name) for index, name in enumerate(tree.classes) if name in set(kept)}
    samples = [(file, numbers[target]) for file, target in tree.samples]
    return ImageFolder(SampleReader(samples), classes=kept, transform=transform, in_chans=in_chans)


def class_names(root: Path | str, split: str | None = "train") -> list[str]:
    """Names of the class folders under root/split, in the order of their indices, without looking into them.

    Raises:
        ValueError: the folder is missing or holds no class folders.
    """
    folder = _split_folder(Path(root), split)
    names = _class_folders(folder)
    if not names:
        raise ValueError(f"{folder} holds no class folders; expected {folder}/<class>/<image>")
    return names


class _Part:
    """Some of the samples of a reader."""

    def __init__(self, reader: Any, indices: np.ndarray) -> None:
        self.reader, self.indices = reader, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.reader[int(self.indices[index])]

    def filename(self, index: int, *, absolute: bool = False) -> str:
        """As the reader has it."""
        return self.reader.filename(int(self.indices[index]), absolute=absolute)


class _Numbered(_Part):
    """The samples of a reader with other class indices."""

    def __init__(self, reader: Any, table: Sequence[int]) -> None:
        super().__init__(reader, np.arange(len(reader)))
        self.table = table

    def __getitem__(self, index: int) -> Any:
        file, target = super().__getitem__(index)
        return file, self.table[target]


def _class_folders(folder: Path) -> list[str]:
    from timm.utils import natural_key

    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry.name)]
    # timm's order of classes, with ties between names that differ in case broken the same way everywhere.
    return sorted(names, key=lambda name: (natural_key(name), name))


def _split_folder(root: Path, split: str | None) -> Path:
    expected = f"{root}/<class>/<image>" if split is None else f"{root}/{split}/<class>/<image>"
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise ValueError(f"data folder {root} {what}; expected {expected}; check the path")
    folder = root if split is None else root / split
    if not folder.is_dir():
        found = _class_folders(root)
        raise ValueError(
            f"data folder {folder} does not exist; {root} holds {f'folders {some(found)}' if found else 'no folders'}; "
            f"expected {expected}; check the path and the split's name"
        )
    return folder
