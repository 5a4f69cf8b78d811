"""Loaders of detection data, in any annotation format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from a2mamba.data.detection.annotations import Category, DetectionAnnotations
from a2mamba.data.detection.config import DetectionData
from a2mamba.data.detection.dataset import CocoDataset, DetectionBatch, collate_detection
from a2mamba.data.detection.orientation import upright
from a2mamba.data.detection.readers import READERS
from a2mamba.data.detection.readers.source import DetectionSource, SplitPlaces
from a2mamba.data.detection.transforms import MultiScale
from a2mamba.data.loading import BatchLoader, GroupedSampler, SeededDataset, evaluation_batches
from a2mamba.data.splits import HOLDOUT, heldout

Split = Literal["train", "val"]


def with_detection_source(data: DetectionData, source: DetectionSource, *, holdout: float = HOLDOUT) -> DetectionData:
    """The same data settings for a folder that was recognized.

    Args:
        data: settings.
        source: the folder.
        holdout: share of the images to evaluate on where there is one split only.
    """
    train, val = source.splits[source.train_split], source.splits[source.val_split]
    return replace(
        data,
        root=str(source.root),
        layout=source.layout,
        train_images=_below(source.root, train.images),
        train_annotations=_below(source.root, train.annotations),
        val_images=_below(source.root, val.images),
        val_annotations=_below(source.root, val.annotations),
        train_subset=train.subset,
        val_subset=val.subset,
        masks=data.masks and source.masks,
        holdout=holdout if train == val else 0.0,
    )


def read_detection_split(
    data: DetectionData,
    split: Split,
    *,
    masks: bool | None = None,
    categories: Sequence[Category] | None = None,
) -> DetectionAnnotations:
    """The annotations of a run's split, of whatever format; what training and evaluation both read.

    Args:
        data: where they lie.
        split: "train" or "val"; of the latter, all sizes and objects are those of the upright images.
        masks: read the objects' masks; None does what `data.masks` says.
        categories: that the labels have to fit, by name: the training split's. None takes the split's own.

    Raises:
        ValueError: as the format's reader, one line.
    """
    places = (
        SplitPlaces(*data.train_paths(), data.train_subset)
        if split == "train"
        else SplitPlaces(*data.val_paths(), data.val_subset)
    )
    found = READERS[data.layout].read(
        places,
        masks=data.masks if masks is None else masks,
        categories=categories,
        problem=None,
    )
    if data.holdout:
        chosen = heldout(len(found.file_names), data.holdout)
        found = found.selected(chosen if split == "val" else ~chosen)
    return upright(found) if split == "val" else found


def _below(root: Path, path: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def train_detection_loader(
    data: DetectionData,
    *,
    annotations: DetectionAnnotations | None = None,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    micro_batch: int | None = None,
    pin_memory: bool = False,
) -> BatchLoader[DetectionBatch]:
    """Shuffled, augmented batches of whole optimizer steps.

    With `data.group_by_aspect` every step is of one shape group, and a few images come twice in an epoch, see
    `GroupedSampler`; else the incomplete last step is left out.

    Args:
        data: what to load; `data.batch_size` is the total over processes and forward passes.
        annotations: those of the training images, where they were read already; COCO's take most of a minute.
        seed: of order and augmentation; with the epoch it fixes both exactly.
        rank: this process.
        world_size: number of processes; every one gets the same number of batches. It divides `data.batch_size`.
        micro_batch: images in one batch; it divides the process's share of `data.batch_size`, which is the default.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `read_detection_split` and `CocoDataset`, or fewer images than one step.
    """
    transform = MultiScale(
        min_sizes=data.min_sizes,
        max_size=data.max_size,
        hflip=data.hflip,
        crop_probability=data.crop_probability,
        crop_resize_sizes=data.crop_resize_sizes,
        crop_size=data.crop_size,
    )
    dataset = CocoDataset(
        data.train_paths()[0],
        read_detection_split(data, "train") if annotations is None else annotations,
        transform=transform,
        drop_empty=data.drop_empty,
        min_image_side=data.min_image_side,
    )
    if len(dataset) < data.batch_size:
        raise ValueError(
            f"data.batch_size={data.batch_size} exceeds the {len(dataset)} training images with objects; "
            f"set data.batch_size to at most {len(dataset)}"
        )
    groups = dataset.is_wide if data.group_by_aspect else np.zeros(len(dataset), dtype=bool)
    sampler = GroupedSampler(
        groups,
        batch_size=data.batch_size,
        seed=seed,
        rank=rank,
        world_size=world_size,
        remainder="pad" if data.group_by_aspect else "drop",
    )
    share = data.batch_size // world_size
    size = micro_batch or share
    if share % size:
        raise ValueError(f"micro_batch={size} does not divide the {share} images of one process in a step")
    return BatchLoader(
        SeededDataset(dataset, seed),
        sampler,
        batch_size=size,
        collate=collate_detection,
        drop_last=True,
        workers=data.workers,
        pin_memory=pin_memory,
    )


def eval_detection_loader(
    data: DetectionData,
    *,
    annotations: DetectionAnnotations | None = None,
    categories: Sequence[Category] | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader[DetectionBatch]:
    """Batches of all evaluation images in original size and a fixed order, each exactly once over all processes.

    The model resizes. Targets need no masks: `evaluation.CocoMetric` has the truth from the annotations.

    Args:
        data: what to load.
        annotations: those of the evaluation images, where they were read already, see `read_detection_split`;
            without masks the targets hold none.
        categories: those that the model was trained with; None takes the evaluation file's.
        rank: this process.
        world_size: number of processes; numbers of batches may differ by one.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `read_detection_split` and `CocoDataset`.
    """
    if annotations is None:
        annotations = read_detection_split(data, "val", masks=False, categories=categories)
    dataset = CocoDataset(data.val_paths()[0], annotations)
    return evaluation_batches(
        dataset,
        batch_size=data.eval_batch_size,
        collate=collate_detection,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )
