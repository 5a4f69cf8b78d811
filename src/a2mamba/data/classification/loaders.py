"""Classification data: images with one class each, from class folders, tables, tar shards or the Hugging Face hub.

    root/train/<class>/<image>    the class index is the position of the class folder in natural order
    root/val/<class>/<image>      the same class folders

Folders are walked by `class_folders`, tables read by `tables`, tar shards by `shards`, the hub by `hub`. Whatever the
source, images are reached by their index, so that order, sharding over processes and resuming are the same for all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from a2mamba.data.classification.class_folders import ImageFolder, ImageSample
from a2mamba.data.classification.config import ClassificationData
from a2mamba.data.classification.recognition import refuse_annotated
from a2mamba.data.classification.splits import open_split, split_classes
from a2mamba.data.classification.tables import has_table
from a2mamba.data.classification.transforms import eval_transform, train_transform
from a2mamba.data.loading.loader import BatchLoader, evaluation_batches
from a2mamba.data.loading.samplers import EpochSampler
from a2mamba.data.loading.seeded import SeededDataset
from a2mamba.data.names import describe_class_difference, some

_log = logging.getLogger("a2mamba.data")


class ClassificationBatch(NamedTuple):
    """images (B, C, H, W); targets int64 (B,); paths, B file names.

    Evaluation images are float32 and normalized. Training images are uint8: mixing, normalization and erasing follow
    on the device, see `mixing`, and a quarter of the bytes has to travel there.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]


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
