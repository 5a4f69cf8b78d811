"""Classification data in ImageNet's layout: root/split/class/image.

    root/train/<class>/<image>    the class index is the position of the class folder in natural order
    root/val/<class>/<image>      the same class folders

Folders are walked by timm's reader and pictures transformed by timm's factory. Decoding is our own: timm's data set
replaces an undecodable picture by its neighbour, and a run should say which file is bad instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, decode_image, image_mode
from a2mamba.data.loader import BatchLoader
from a2mamba.data.samplers import EpochSampler
from a2mamba.data.seeded import SeededDataset

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")


@dataclass(frozen=True, kw_only=True)
class ClassificationData:
    """Where the pictures are and what happens to them on the way to the model. The defaults are the paper's.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    root: str
    """folder that holds the splits"""
    train_split: str | None = "train"
    """folder under root to train on; None: root itself holds the class folders"""
    val_split: str | None = "val"
    """folder under root to evaluate on; None as above"""
    image_size: int = 224
    """height and width of what the model sees, in pixels"""
    in_chans: int = 3
    """channels to read: 1 grey, 3 RGB, 4 RGBA"""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """per channel, subtracted from values in [0, 1]"""
    std: tuple[float, ...] = IMAGENET_STD
    """per channel, divides after that"""
    crop_pct: float = 0.9
    """evaluation resizes the short side to floor(image_size / crop_pct), then crops the centre"""
    interpolation: str = "bicubic"
    """of the evaluation resize"""
    train_interpolation: str = "random"
    """of the training crop; "random" draws bilinear or bicubic for each picture"""
    scale: tuple[float, float] = (0.08, 1.0)
    """range of the training crop's area, as a fraction of the picture's"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """range of the training crop's width over height, drawn log-uniformly"""
    hflip: float = 0.5
    """probability of a horizontal flip"""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment / AutoAugment string; None switches it off"""
    color_jitter: float = 0.4
    """strength of brightness, contrast and saturation jitter; without effect while auto_augment is set"""
    reprob: float = 0.25
    """probability of random erasing with noise, after normalisation"""
    batch_size: int = 256
    """training pictures in one batch of one process"""
    eval_batch_size: int = 256
    """evaluation pictures in one batch of one process"""
    workers: int = 8
    """loader processes of each process; 0 loads in the process itself"""

    def __post_init__(self) -> None:
        image_mode(self.in_chans)
        for name in ("image_size", "batch_size", "eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: expected 0 or more")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_chans:
                raise ValueError(f"{name}={getattr(self, name)}: in_chans={self.in_chans} needs {self.in_chans} values")
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std}: expected positive values")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct={self.crop_pct}: expected more than 0 and at most 1")
        for name in ("hflip", "reprob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a probability, 0 to 1")
        for name in ("scale", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}={(low, high)}: expected (low, high) with 0 < low <= high")
        if self.scale[1] > 1:
            raise ValueError(f"scale={self.scale}: the crop's area cannot exceed the picture's, 1.0")
        if self.color_jitter < 0:
            raise ValueError(f"color_jitter={self.color_jitter}: expected 0 or more")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation={self.interpolation!r}: expected one of {', '.join(_INTERPOLATIONS)}")
        if self.train_interpolation not in ("random", *_INTERPOLATIONS):
            known = ", ".join(("random", *_INTERPOLATIONS))
            raise ValueError(f"train_interpolation={self.train_interpolation!r}: expected one of {known}")
        if self.in_chans == 4 and (self.auto_augment or self.color_jitter):
            raise ValueError(
                "in_chans=4: colour augmentation is not defined on RGBA; set auto_augment=None, color_jitter=0"
            )


class ImageSample(NamedTuple):
    """One picture: image (C, H, W), class index, and the file it came from."""

    image: Tensor
    target: int
    path: str


class ClassificationBatch(NamedTuple):
    """images float32 (B, C, H, W), normalised; targets int64 (B,); paths, B file names."""

    images: Tensor
    targets: Tensor
    paths: list[str]


class ImageFolder(Dataset[ImageSample]):
    """The pictures of one split, decoded completely when asked for.

    Args:
        reader: a timm reader: indexing gives (file opened for bytes, class index), `filename` the file's name.
        classes: class names in index order.
        transform: a picture -> tensor (C, H, W); None gives uint8 pixels.
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

    def __getitem__(self, index: int) -> ImageSample:
        """Decode and transform one picture.

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
    """The pictures under root/split/class/.

    Args:
        root: folder that holds the splits.
        split: folder under root; None when root itself holds the class folders.
        transform: a picture -> tensor (C, H, W); None gives uint8 pixels.
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


def train_transform(data: ClassificationData) -> Callable[[Image.Image], Tensor]:
    """Random crop, flip, augmentation, normalisation, erasing: a picture -> float32 (C, image_size, image_size).

    Raises:
        ValueError: an auto_augment string that timm does not understand.
    """
    from timm.data import create_transform

    try:
        _refuse_ignored_sections(data.auto_augment)
        transform = create_transform(
            data.image_size,
            is_training=True,
            scale=data.scale,
            ratio=data.ratio,
            hflip=data.hflip,
            auto_augment=data.auto_augment,
            color_jitter=data.color_jitter,
            interpolation=data.train_interpolation,
            mean=data.mean,
            std=data.std,
            re_prob=data.reprob,
            re_mode="pixel",
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            f"auto_augment={data.auto_augment!r}: timm does not understand it; "
            f"expected a string like 'rand-m9-mstd0.5-inc1' or None"
        ) from error
    for operation in _augment_operations(transform):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return transform


def eval_transform(data: ClassificationData) -> Callable[[Image.Image], Tensor]:
    """Resize, centre crop, normalisation: a picture of any size -> float32 (C, image_size, image_size)."""
    from timm.data import create_transform

    return create_transform(
        data.image_size,
        is_training=False,
        crop_pct=data.crop_pct,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
    )


def load_image(path: Path | str, data: ClassificationData) -> Tensor:
    """One picture as evaluation would see it: float32 (C, image_size, image_size).

    Raises:
        UndecodableImageError: missing, damaged, or not an image.
    """
    return eval_transform(data)(decode_image(Path(path), mode=image_mode(data.in_chans)))


def train_loader(
    data: ClassificationData, *, seed: int, rank: int = 0, world_size: int = 1, pin_memory: bool = False
) -> BatchLoader[ClassificationBatch]:
    """Shuffled, augmented batches of exactly `data.batch_size` pictures; the incomplete last batch is left out.

    Args:
        data: what to load.
        seed: of order and augmentation; with the epoch it fixes both exactly.
        rank: this process.
        world_size: number of processes; every one gets the same number of batches.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `image_folder`, or fewer pictures than one batch.
    """
    dataset = image_folder(data.root, data.train_split, transform=train_transform(data), in_chans=data.in_chans)
    sampler = EpochSampler(len(dataset), shuffle=True, seed=seed, rank=rank, world_size=world_size, remainder="drop")
    if len(sampler) < data.batch_size:
        raise ValueError(
            f"batch_size={data.batch_size} exceeds the {len(sampler)} training images of one process; "
            f"set batch_size to at most {len(sampler)}"
        )
    return BatchLoader(
        SeededDataset(dataset, seed),
        sampler,
        batch_size=data.batch_size,
        collate=collate,
        drop_last=True,
        workers=data.workers,
        pin_memory=pin_memory,
    )


def eval_loader(
    data: ClassificationData,
    *,
    classes: Sequence[str] | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader[ClassificationBatch]:
    """Batches of the evaluation split in a fixed order, each picture exactly once over all processes.

    Args:
        data: what to load.
        classes: class names in index order that the model was trained with; None compares with the training split,
            where there is one.
        rank: this process.
        world_size: number of processes; numbers of batches may differ by one.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `image_folder`, or other class folders than in training.
    """
    dataset = image_folder(data.root, data.val_split, transform=eval_transform(data), in_chans=data.in_chans)
    if classes is None and data.train_split is not None and (Path(data.root) / data.train_split).is_dir():
        classes = class_names(data.root, data.train_split)
    if classes is not None:
        difference = describe_class_difference(list(classes), dataset.classes)
        if difference:
            raise ValueError(
                f"{_split_folder(Path(data.root), data.val_split)} has other classes than training: {difference}; "
                f"both need the same class folders"
            )
    sampler = EpochSampler(len(dataset), shuffle=False, seed=0, rank=rank, world_size=world_size, remainder="keep")
    return BatchLoader(
        SeededDataset(dataset, 0),
        sampler,
        batch_size=data.eval_batch_size,
        collate=collate,
        drop_last=False,
        workers=data.workers,
        pin_memory=pin_memory,
    )


def collate(samples: Sequence[ImageSample]) -> ClassificationBatch:
    """Stack samples whose images have one shape."""
    images, targets, paths = zip(*samples, strict=True)
    return ClassificationBatch(torch.stack(images), torch.tensor(targets, dtype=torch.int64), list(paths))


def describe_class_difference(expected: Sequence[str], found: Sequence[str]) -> str:
    """One phrase about what differs between two lists of class names, names included; empty when nothing does."""
    missing = [name for name in expected if name not in set(found)]
    extra = [name for name in found if name not in set(expected)]
    parts = []
    if missing:
        parts.append(f"missing {some(missing)}")
    if extra:
        parts.append(f"unexpected {some(extra)}")
    if not parts and list(expected) != list(found):
        parts.append(f"the same names in another order, {some(expected)} against {some(found)}")
    return ", ".join(parts)


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text


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


def _refuse_ignored_sections(auto_augment: str | None) -> None:
    """ValueError for a section without a number, which timm passes over in silence; "t..." names a set."""
    _, *sections = (auto_augment or "").split("-")
    for section in sections:
        if not any(character.isdigit() for character in section) and not section.startswith("t"):
            raise ValueError(f"{section!r} has no value")


def _augment_operations(transform: Any) -> Iterable[Any]:
    """Every AugmentOp of a composed transform: RandAugment holds a list of them, AutoAugment a list of lists."""
    for step in transform.transforms:
        yield from getattr(step, "ops", ())
        for policy in getattr(step, "policy", ()):
            yield from policy


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """Posterize that allows 0 bits, a black picture.

    timm's "increasing" form asks for 0 bits at magnitude 10, which the noise of the default policy reaches for about
    one picture in a thousand. Pillow drew it black up to version 12; newer ones raise ValueError.
    """
    from PIL import ImageOps

    if bits_to_keep >= 8:
        return image
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits_to_keep)
