"""Images with one class each, in class folders: root/split/<class>/<image>.

Folders are walked by timm's reader. Decoding is our own: timm's data set replaces an undecodable image by its
neighbor, and a run should say which file is bad instead.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, decode_image, image_mode
from a2mamba.data.names import some

_HOLDOUT_STREAM = 3  # see samplers._STREAM


class ImageSample(NamedTuple):
    """One image: image (C, H, W), class index, and the file it came from."""

    image: Tensor
    target: int
    path: str


class ImageFolder(Dataset[ImageSample]):
    """The images of one split, decoded completely when asked for.

    Args:
        reader: a timm reader: indexing gives (file opened for bytes, class index), `filename` the file's name.
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
            count = min(max(1, round(share * len(members))), len(members) - 1)
            order = np.random.default_rng((_HOLDOUT_STREAM, int(label))).permutation(members)
            chosen[order[:count]] = True
        kept = copy.copy(self)
        kept.reader = _Part(self.reader, np.flatnonzero(chosen if heldout else ~chosen))
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
        reader: timm's reader over the samples, None without any.
    """

    folder: Path
    classes: list[str]
    samples: list[tuple[str, int]]
    strays: list[str]
    reader: Any

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class, zeros included."""
        counts = [0] * len(self.classes)
        for _, target in self.samples:
            counts[target] += 1
        return dict(zip(self.classes, counts, strict=True))


def scan_classes(folder: Path) -> ClassTree:
    """Walk the class folders of one split with timm's reader.

    Args:
        folder: holds one folder for each class.

    Raises:
        ValueError: the folder does not exist.
    """
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    classes = _class_folders(folder)
    indices = {name: index for index, name in enumerate(classes)}
    try:
        reader = ReaderImageFolder(str(folder), input_key=";".join(IMAGE_EXTENSIONS))
    except RuntimeError:  # its answer to a folder without a single image
        return ClassTree(folder, classes, [], [], None)
    samples, strays = [], []
    for file, _ in reader.samples:
        parts = Path(file).relative_to(folder).parts
        if any(part.startswith(".") for part in parts):
            continue  # .ipynb_checkpoints and the like
        if len(parts) == 2:
            samples.append((file, indices[parts[0]]))
        else:
            # timm would name the class after the innermost folder, torchvision after the outermost: no guess here.
            strays.append(file)
    # timm ignores case and leaves ties in the file system's order; this order is the same on any machine.
    samples.sort(key=lambda sample: (sample[1], sample[0]))
    reader.samples, reader.class_to_idx = samples, indices
    return ClassTree(folder, classes, samples, sorted(strays), reader if samples else None)


def image_folder(
    root: Path | str,
    split: str | None,
    *,
    transform: Callable[[Image.Image], Tensor] | None = None,
    in_chans: int = 3,
) -> ImageFolder:
    """The images under root/split/class/.

    Args:
        root: folder that holds the splits.
        split: folder under root; None when root itself holds the class folders.
        transform: an image -> tensor (C, H, W); None gives uint8 pixels.
        in_chans: 1, 3 or 4 channels.

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
    if empty:
        what = "no class folder holds" if len(empty) == len(tree.classes) else "class folders without"
        extensions = sorted({file.suffix for name in empty for file in (folder / name).iterdir() if file.suffix})
        found = f" (files there end in {some(extensions)})" if extensions else ""
        raise ValueError(
            f"{what} images in {folder}: {some(empty)}{found}; add images ({' '.join(IMAGE_EXTENSIONS)}) "
            f"or remove the folders"
        )
    return ImageFolder(tree.reader, classes=tree.classes, transform=transform, in_chans=in_chans)


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


def _class_folders(folder: Path) -> list[str]:
    from timm.utils import natural_key

    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
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
