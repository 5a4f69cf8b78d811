"""Classification data: images with one class each, from class folders, tables, tar shards or the Hugging Face
hub.

    root/train/<class>/<image>    the class index is the position of the class folder in natural order
    root/val/<class>/<image>      the same class folders

Folders are walked by `class_folders`, tables read by `tables`, tar shards by `shards`; images are transformed by timm's
factory. Whatever the source, images are reached by their index, so that order, sharding over processes and resuming are
the same for all.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from a2mamba.data.classification.class_folders import (
    ImageFolder,
    ImageSample,
    SampleReader,
    class_names,
    image_folder,
)
from a2mamba.data.classification.datasets import IMAGENET
from a2mamba.data.classification.recognition import refuse_annotated
from a2mamba.data.classification.shards import ShardReader, class_list, find_shards
from a2mamba.data.classification.tables import has_table, read_table, refuse_measurements
from a2mamba.data.images import decode_image, image_mode
from a2mamba.data.loading.loader import BatchLoader, evaluation_batches
from a2mamba.data.loading.samplers import EpochSampler
from a2mamba.data.loading.seeded import SeededDataset
from a2mamba.data.names import describe_class_difference, some

IMAGENET_MEAN = IMAGENET.mean
IMAGENET_STD = IMAGENET.std
_log = logging.getLogger("a2mamba.data")
_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")


@dataclass(frozen=True, kw_only=True)
class ClassificationData:
    """Where the images are and what happens to them on the way to the model. The defaults are the paper's.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    root: str
    """folder that holds the splits; with source=hfds the data set's name on the hub"""
    source: Literal["folder", "csv", "tar", "wds", "hfds"] = "folder"
    """folder: class folders; csv: a table of images and labels; tar: class folders inside of tar files; wds:
    WebDataset's tar files; hfds: from the hub"""
    train_split: str | None = "train"
    """folder or table (without .csv) under root, of the hub: split, to train on; None: root holds the class folders"""
    val_split: str | None = "val"
    """folder under root to evaluate on; None as above"""
    holdout: float = 0.0
    """share of each class's training images to evaluate on instead of val_split; 0: there is an evaluation split"""
    image_size: int = 224
    """height and width of what the model sees, in pixels"""
    in_chans: int = 3
    """channels to read: 1 gray, 3 RGB, 4 RGBA"""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """per channel, subtracted from values in [0, 1]"""
    std: tuple[float, ...] = IMAGENET_STD
    """per channel, divides after that"""
    crop_pct: float = 0.9
    """evaluation resizes the short side to floor(image_size / crop_pct), then crops the center"""
    crop_mode: Literal["center", "squash"] = "center"
    """center: as above; squash: evaluation resizes both sides, whatever their ratio"""
    interpolation: str = "bicubic"
    """of the evaluation resize"""
    train_interpolation: str = "random"
    """of the training crop; "random" draws bilinear or bicubic for each image"""
    scale: tuple[float, float] = (0.08, 1.0)
    """range of the training crop's area, as a fraction of the image's"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """range of the training crop's width over height, drawn log-uniformly"""
    hflip: float = 0.5
    """probability of a horizontal flip"""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment / AutoAugment string; None switches it off"""
    color_jitter: float = 0.4
    """strength of brightness, contrast and saturation jitter; without effect while auto_augment is set"""
    mixup: float = 0.8
    """alpha of Mixup; 0 switches it off"""
    cutmix: float = 1.0
    """alpha of CutMix, drawn as often as Mixup where both are on; 0 switches it off"""
    reprob: float = 0.25
    """probability of random erasing with noise, after mixing and normalization"""
    batch_size: int = 2048
    """training images in one optimizer step: the total over all processes and forward passes"""
    eval_batch_size: int = 256
    """evaluation images in one forward pass of one process"""
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
            raise ValueError(f"scale={self.scale}: the crop's area cannot exceed the image's, 1.0")
        for name in ("color_jitter", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout={self.holdout}: expected a share, 0 to less than 1")
        if self.source in ("hfds", "csv") and self.train_split is None:
            raise ValueError(f"train_split=None: source={self.source} needs the name of a split")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(f"interpolation={self.interpolation!r}: expected one of {', '.join(_INTERPOLATIONS)}")
        if self.train_interpolation not in ("random", *_INTERPOLATIONS):
            known = ", ".join(("random", *_INTERPOLATIONS))
            raise ValueError(f"train_interpolation={self.train_interpolation!r}: expected one of {known}")
        if self.in_chans == 4 and (self.auto_augment or self.color_jitter):
            raise ValueError(
                "in_chans=4: color augmentation is not defined on RGBA; set auto_augment=None, color_jitter=0"
            )


class ClassificationBatch(NamedTuple):
    """images (B, C, H, W); targets int64 (B,); paths, B file names.

    Evaluation images are float32 and normalized. Training images are uint8: mixing, normalization and erasing follow
    on the device, see `mixing`, and a quarter of the bytes has to travel there.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]


def split_classes(data: ClassificationData, split: str | None) -> list[str]:
    """The class names of a split, in the order of their indices.

    Raises:
        ValueError: the split does not exist, or has no classes.
    """
    if data.source == "folder":
        return class_names(data.root, split)
    return open_split(data, split).classes


def open_split(
    data: ClassificationData,
    split: str | None,
    *,
    transform: Callable[[Image.Image], Tensor] | None = None,
    classes: Sequence[str] | None = None,
    allow_empty: bool = False,
) -> ImageFolder:
    """The images of a split, whatever the source.

    Args:
        data: the source, where it is, and the channels.
        split: name of the split; None: root itself.
        transform: an image -> tensor (C, H, W); None gives uint8 pixels.
        classes: class names in index order, for the source that has numbers in their place (wds); None: those of
            root/classes.txt, or the numbers that the split has.
        allow_empty: leave class folders without images out.

    Raises:
        ValueError: as `image_folder` and `ShardReader`; a split that the hub does not have.
    """
    if data.source == "folder":
        return image_folder(data.root, split, transform=transform, in_chans=data.in_chans, allow_empty=allow_empty)
    if data.source == "csv":
        return _table_folder(data, split or "", transform=transform)
    if data.source == "hfds":
        hub = _HubReader(data.root, split or "")
        return ImageFolder(hub, classes=hub.classes, transform=transform, in_chans=data.in_chans)
    shards = find_shards(data.root, split)
    if data.source == "wds":
        reader = ShardReader(shards, labels="cls", classes=classes or class_list(data.root))
    else:
        reader = ShardReader(shards, labels="folder")
    return ImageFolder(reader, classes=reader.classes, transform=transform, in_chans=data.in_chans)


def _table_folder(
    data: ClassificationData, split: str, *, transform: Callable[[Image.Image], Tensor] | None
) -> ImageFolder:
    table = read_table(Path(data.root), split)
    if split == data.train_split:
        refuse_measurements(table)
    if table.missing:
        raise ValueError(
            f"{len(table.missing)} images of {table.file} are not there: {some(table.missing)}; add them, or remove "
            f"their rows"
        )
    names = table.classes
    indices = {name: index for index, name in enumerate(names)}
    samples = sorted(((file, indices[label]) for file, label in table.rows), key=lambda sample: (sample[1], sample[0]))
    return ImageFolder(SampleReader(samples), classes=names, transform=transform, in_chans=data.in_chans)


class _HubReader:
    """A data set of the Hugging Face hub, downloaded once, through timm's reader."""

    def __init__(self, name: str, split: str) -> None:
        # timm prints on stdout where the library is missing.
        if importlib.util.find_spec("datasets") is None:
            raise ValueError("data.source=hfds needs the datasets library; install it with: pip install datasets")
        from timm.data.readers.reader_hfds import ReaderHfds

        self.name, self.split = name, split
        self.reader = ReaderHfds(name, split=split)
        indices: dict[str, int] = self.reader.class_to_idx
        if sorted(indices.values()) != list(range(len(indices))):
            raise ValueError(f"the labels of {name} are not numbered from 0 without gaps; choose another data set")
        self.classes = sorted(indices, key=indices.__getitem__)
        # The column itself: the reader has `iter_targets` only since timm 1.0.31.
        self.targets = np.asarray(self.reader.dataset[self.reader.label_key][:], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.reader[index]

    def filename(self, index: int, *, absolute: bool = False) -> str:
        """The data set, the split and the row: images of the hub need not have names."""
        return f"{self.name if absolute else ''}[{self.split}][{index}]"


def train_transform(data: ClassificationData) -> Callable[[Image.Image], Tensor]:
    """Random crop, flip, augmentation: an image -> uint8 (C, image_size, image_size). `mixing` has what follows.

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
            mean=data.mean,  # the color of what geometric operations uncover
            normalize=False,
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
    """Resize, center crop, normalization: an image of any size -> float32 (C, image_size, image_size)."""
    from timm.data import create_transform

    return create_transform(
        data.image_size,
        is_training=False,
        crop_pct=data.crop_pct,
        crop_mode=data.crop_mode,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
    )


def load_image(path: Path | str, data: ClassificationData) -> Tensor:
    """One image as evaluation would see it: float32 (C, image_size, image_size).

    Raises:
        UndecodableImageError: missing, damaged, or not an image.
    """
    return eval_transform(data)(decode_image(Path(path), mode=image_mode(data.in_chans)))


class _WholeSteps(EpochSampler):
    """Shuffled epochs of as many whole optimizer steps as there are; the last few samples of the order are left out.

    Step s is the same set of samples for any number of processes and forward passes, and so is the number of steps.
    """

    def __init__(self, length: int, *, total: int, seed: int, rank: int, world_size: int) -> None:
        super().__init__(length, shuffle=True, seed=seed, rank=rank, world_size=world_size, remainder="drop")
        assert total % world_size == 0, "plan_batches shares the total equally"
        self.steps = length // total
        self.share = total // world_size

    @property
    def samples_per_epoch(self) -> int:
        return self.steps * self.share


def check_batch(data: ClassificationData, samples: int) -> None:
    """Raise ValueError where there are fewer training images than one optimizer step takes."""
    if samples < data.batch_size:
        raise ValueError(
            f"data.batch_size={data.batch_size} exceeds the {samples} training images; "
            f"set data.batch_size to at most {samples}"
        )


def refuse_unlearnable(root: Path | str, classes: Sequence[str]) -> None:
    """Raise ValueError where there are fewer than two classes to tell apart."""
    if len(classes) < 2:
        raise ValueError(
            f"nothing can be learned from {root}: its images are of {len(classes)} class ({some(classes)}), and need "
            f"two; add a folder of images that show something else"
        )


def train_loader(
    data: ClassificationData,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    micro_batch: int | None = None,
    pin_memory: bool = False,
) -> BatchLoader[ClassificationBatch]:
    """Shuffled, augmented batches of whole optimizer steps; the incomplete last step is left out.

    Args:
        data: what to load; `data.batch_size` is the total over processes and forward passes.
        seed: of order and augmentation; with the epoch it fixes both exactly.
        rank: this process.
        world_size: number of processes; every one gets the same number of batches. It divides `data.batch_size`.
        micro_batch: images in one batch; it divides the process's share of `data.batch_size`, which is the default.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `image_folder`, or fewer images than one step.
    """
    dataset = open_split(data, data.train_split, transform=train_transform(data))
    refuse_unlearnable(data.root, dataset.classes)
    if data.source == "folder":
        refuse_annotated(Path(data.root), data.train_split)
    if data.holdout:
        dataset = dataset.part(data.holdout, heldout=False)
    check_batch(data, len(dataset))
    sampler = _WholeSteps(len(dataset), total=data.batch_size, seed=seed, rank=rank, world_size=world_size)
    size = micro_batch or sampler.share
    assert sampler.share % size == 0, "plan_batches cuts a process's share into equal passes"
    return BatchLoader(
        SeededDataset(dataset, seed),
        sampler,
        batch_size=size,
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
    """Batches of the evaluation split in a fixed order, each image exactly once over all processes.

    Args:
        data: what to load.
        classes: class names in index order that the model was trained with; None compares with the training split,
            where there is one.
        rank: this process.
        world_size: number of processes; numbers of batches may differ by one.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `image_folder`, or class folders that training does not have.
    """
    return evaluation_batches(
        eval_dataset(data, classes=classes),
        batch_size=data.eval_batch_size,
        collate=collate,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def eval_dataset(data: ClassificationData, *, classes: Sequence[str] | None = None) -> ImageFolder:
    """The images to evaluate on; see `eval_loader`."""
    split = data.train_split if data.holdout else data.val_split
    dataset = open_split(data, split, transform=eval_transform(data), classes=classes, allow_empty=True)
    if data.holdout:
        dataset = dataset.part(data.holdout, heldout=True)
    if classes is None and data.train_split is not None and _has_split(data, data.train_split):
        classes = split_classes(data, data.train_split)
    if classes is not None:
        dataset = _with_classes_of_training(dataset, list(classes), f"{data.root}, split {split!r},")
    return dataset


def _has_split(data: ClassificationData, split: str) -> bool:
    root = Path(data.root)
    return has_table(root, split) if data.source == "csv" else (root / split).is_dir()


def _with_classes_of_training(dataset: ImageFolder, classes: list[str], where: str) -> ImageFolder:
    """The data set with the class indices of training; it may lack some of the classes, which is said."""
    difference = describe_class_difference(classes, dataset.classes)
    if not difference:
        return dataset
    absent = [name for name in classes if name not in set(dataset.classes)]
    if set(dataset.classes) - set(classes) or not absent:
        raise ValueError(f"{where} has other classes than training: {difference}; both need the same classes")
    _log.warning(
        "%s has no images of %d of %d classes (%s); it is evaluated on the others",
        where,
        len(absent),
        len(classes),
        some(absent),
    )
    return dataset.numbered(classes)


def collate(samples: Sequence[ImageSample]) -> ClassificationBatch:
    """Stack samples whose images have one shape."""
    images, targets, paths = zip(*samples, strict=True)
    return ClassificationBatch(torch.stack(images), torch.tensor(targets, dtype=torch.int64), list(paths))


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
    """Posterize that allows 0 bits, a black image.

    timm's "increasing" form asks for 0 bits at magnitude 10, which the noise of the default policy reaches for about
    one image in a thousand. Pillow drew it black up to version 12; newer ones raise ValueError.
    """
    from PIL import ImageOps

    if bits_to_keep >= 8:
        return image
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits_to_keep)
