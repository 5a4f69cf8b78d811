"""Detection and instance segmentation data in COCO's layout.

    root/train2017/<image>, root/val2017/<image>
    root/annotations/instances_train2017.json, root/annotations/instances_val2017.json

One's own data needs the same kind of JSON file and a folder of images, under any names. Targets follow torchvision's
detection contract: labels begin at 1, in increasing order of category ids, and 0 is the background.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.detection.annotations import (
    Category,
    CocoAnnotations,
    load_content,
    parse_annotations,
    read_annotations,
)
from a2mamba.data.detection.transforms import DetectionView, MultiScale, original_view
from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.data.loader import BatchLoader, evaluation_batches
from a2mamba.data.names import some
from a2mamba.data.samplers import GroupedSampler
from a2mamba.data.seeded import SeededDataset


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Where images and annotations are and what happens to them on the way to the model.

    The defaults are those of the 3x multi-scale protocol that Swin, VMamba and others follow on COCO 2017.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    root: str
    """folder that the four paths below are relative to"""
    train_images: str = "train2017"
    """folder of the training images"""
    train_annotations: str = "annotations/instances_train2017.json"
    """annotation file of the training images"""
    val_images: str = "val2017"
    """folder of the evaluation images"""
    val_annotations: str = "annotations/instances_val2017.json"
    """annotation file of the evaluation images"""
    masks: bool = True
    """train with the objects' masks; false for files that hold boxes only"""
    drop_empty: bool = True
    """leave out training images without an object that can be used"""
    min_image_side: int = 32
    """leave out training images with a side of fewer pixels"""
    hflip: float = 0.5
    """probability of a horizontal flip"""
    min_sizes: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    """short sides of training images in pixels, one drawn for each"""
    max_size: int = 1333
    """largest long side of training images in pixels; the short side is smaller where this one binds"""
    crop_probability: float = 0.5
    """probability of a random crop before the resize"""
    crop_resize_sizes: tuple[int, ...] = (400, 500, 600)
    """short sides in pixels to resize to before a random crop, one drawn"""
    crop_size: tuple[int, int] = (384, 600)
    """smallest and largest side of a random crop in pixels; height and width are drawn apart"""
    group_by_aspect: bool = True
    """steps use either images that are wider than high, or others: less padding"""
    batch_size: int = 16
    """training images in one optimizer step: the total over all processes and forward passes"""
    eval_batch_size: int = 1
    """evaluation images in one forward pass of one process"""
    workers: int = 4
    """loader processes of each process; 0 loads in the process itself"""

    def __post_init__(self) -> None:
        for name in ("batch_size", "eval_batch_size", "max_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 1 or more")
        for name in ("workers", "min_image_side"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        for name in ("hflip", "crop_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a probability, 0 to 1")
        for name in ("min_sizes", "crop_resize_sizes"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 1:
                raise ValueError(f"{name}={sizes}: expected one or more sizes of 1 or more")
            if max(sizes) > self.max_size:
                raise ValueError(f"{name}={sizes}: exceeds max_size={self.max_size}")
        low, high = self.crop_size
        if not 1 <= low <= high:
            raise ValueError(f"crop_size={self.crop_size}: expected (low, high) with 1 <= low <= high")

    def train_paths(self) -> tuple[Path, Path]:
        """The folder of the training images and their annotation file."""
        return Path(self.root) / self.train_images, Path(self.root) / self.train_annotations

    def val_paths(self) -> tuple[Path, Path]:
        """The folder of the evaluation images and their annotation file."""
        return Path(self.root) / self.val_images, Path(self.root) / self.val_annotations


class UnfitSampleError(UndecodableImageError):
    """An image and its annotations that do not fit together.

    Args:
        path: the image file.
        reason: one line saying what is wrong.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.args = (f"{path}: {reason}",)


class DetectionSample(NamedTuple):
    """One image: image float32 (3, H, W) in [0, 1]; its target, see `CocoDataset`; and the file it came from."""

    image: Tensor
    target: dict[str, Any]
    path: str


class DetectionBatch(NamedTuple):
    """Images of different sizes, their targets and their files."""

    images: list[Tensor]
    targets: list[dict[str, Any]]
    paths: list[str]


class CocoDataset(Dataset[DetectionSample]):
    """Images and their objects.

    A target holds, for N objects, `boxes` float32 (N, 4) x0 y0 x1 y1 in pixels of the image, `labels` int64 (N,) from
    1 on, `image_id` (an int, COCO's) and, with masks, `masks` uint8 (N, H, W) of 0 and 1. Crowds and objects that the
    protocol skips are not in it; `annotations.skipped` lists them.

    Args:
        folder: of the images.
        annotations: what `read_annotations` returned; with masks or without.
        transform: a uint8 image (3, H, W) and boxes -> `DetectionView`; None leaves both as they are.
        drop_empty: leave out images without objects.
        min_image_side: leave out images with a side of fewer pixels.

    Raises:
        ValueError: the folder or an image file is missing, or no image is left.
        ImportError: masks are polygons, and there is no library that draws them.
    """

    def __init__(
        self,
        folder: Path | str,
        annotations: CocoAnnotations,
        *,
        transform: Callable[[Tensor, Tensor], DetectionView] | None = None,
        drop_empty: bool = False,
        min_image_side: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.annotations = annotations
        self.transform = transform or original_view
        _require_files(self.folder, annotations)
        if annotations.segmentations is not None:
            annotations.segmentations.require_library()
        keep = annotations.image_sizes.min(axis=1) >= min_image_side
        if drop_empty:
            keep &= np.diff(annotations.first) > 0
        self.images = np.flatnonzero(keep)
        """positions in `annotations` of the images that are left, int64"""
        if not self.images.size:
            skipped = ", ".join(f"{len(ids)} {reason}" for reason, ids in annotations.skipped.items()) or "none"
            raise ValueError(
                f"{annotations.file} has no image with objects of {min_image_side} pixels or more on each side "
                f"(annotations left out: {skipped})"
                if drop_empty
                else f"{annotations.file} has no image of {min_image_side} pixels or more on each side"
            )

    @property
    def categories(self) -> tuple[Category, ...]:
        """The category of label k at position k - 1."""
        return self.annotations.categories

    @property
    def is_wide(self) -> np.ndarray:
        """Which images are wider than high, bool (len(self),), by the stated sizes."""
        height, width = self.annotations.image_sizes[self.images].T
        return width > height

    def __len__(self) -> int:
        return len(self.images)

    def path(self, index: int) -> str:
        """The file name of a sample."""
        return str(self.folder / self.annotations.file_names[self.images[index]])

    def index_of(self, image_id: int) -> int:
        """The index of the sample with COCO's image id.

        Raises:
            ValueError: there is none.
        """
        found = np.flatnonzero(self.annotations.image_ids[self.images] == image_id)
        if not found.size:
            raise ValueError(f"image {image_id} is not among the {len(self)} images of {self.annotations.file}")
        return int(found[0])

    def __getitem__(self, index: int) -> DetectionSample:
        """Decode and transform one image and its objects.

        Raises:
            UndecodableImageError: naming the file.
            UnfitSampleError: the image has another size than the annotation file says, or a mask is damaged.
        """
        from torchvision.transforms.functional import pil_to_tensor

        path, number = self.path(index), self.images[index]
        image = pil_to_tensor(decode_image(Path(path)))
        stated = tuple(self.annotations.image_sizes[number].tolist())
        if tuple(image.shape[1:]) != stated:
            raise UnfitSampleError(
                path,
                f"is {image.shape[2]} pixels wide and {image.shape[1]} high, and {self.annotations.file} says "
                f"{stated[1]} and {stated[0]} (image {self.annotations.image_ids[number]}); correct one of them",
            )
        objects = self.annotations.objects(number)
        view = self.transform(image, torch.from_numpy(self.annotations.boxes[objects]).float())
        target: dict[str, Any] = {
            "boxes": view.boxes,
            "labels": torch.from_numpy(self.annotations.labels[objects])[view.kept],
            "image_id": int(self.annotations.image_ids[number]),
        }
        if self.annotations.segmentations is not None:
            masks = torch.zeros((len(view.kept), *view.image.shape[1:]), dtype=torch.uint8)
            for place, position in enumerate((objects.start + view.kept).tolist()):
                try:
                    mask = torch.from_numpy(self.annotations.mask(position))
                except ValueError as error:
                    raise UnfitSampleError(path, str(error)) from None
                masks[place] = mask[view.rows][:, view.columns]
            target["masks"] = masks
        return DetectionSample(view.image.float() / 255, target, path)


def train_detection_loader(
    data: DetectionData,
    *,
    annotations: CocoAnnotations | None = None,
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
        ValueError: as `read_annotations` and `CocoDataset`, or fewer images than one step.
    """
    folder, file = data.train_paths()
    transform = MultiScale(
        min_sizes=data.min_sizes,
        max_size=data.max_size,
        hflip=data.hflip,
        crop_probability=data.crop_probability,
        crop_resize_sizes=data.crop_resize_sizes,
        crop_size=data.crop_size,
    )
    dataset = CocoDataset(
        folder,
        read_annotations(file, masks=data.masks) if annotations is None else annotations,
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
    categories: Sequence[Category] | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader[DetectionBatch]:
    """Batches of all evaluation images in original size and a fixed order, each exactly once over all processes.

    The model resizes. Targets hold no masks: `evaluation.CocoMetric` has the truth from the annotation file.

    Args:
        data: what to load.
        categories: those that the model was trained with; None takes the evaluation file's.
        rank: this process.
        world_size: number of processes; numbers of batches may differ by one.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `read_annotations` and `CocoDataset`.
    """
    folder, file = data.val_paths()
    dataset = CocoDataset(folder, read_annotations(file, masks=False, categories=categories))
    return evaluation_batches(
        dataset,
        batch_size=data.eval_batch_size,
        collate=collate_detection,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def collate_detection(samples: Sequence[DetectionSample]) -> DetectionBatch:
    """Lists of what the samples hold: images of different sizes are not stacked."""
    images, targets, paths = zip(*samples, strict=True)
    return DetectionBatch(list(images), list(targets), list(paths))


def detection_categories(file: Path | str) -> tuple[Category, ...]:
    """The categories of an annotation file: label k is at position k - 1.

    Raises:
        ValueError: as `read_annotations`, for the categories alone.
    """
    content = load_content(Path(file))

    def refuse(_: str, text: str) -> None:
        raise ValueError(f"{file}: {text}; correct the file")

    return parse_annotations(
        {**content, "images": [], "annotations": []}, file=Path(file), masks=False, problem=refuse
    ).categories


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that are no entry of their folder; each folder is listed once, no file is opened."""
    listed: dict[Path, set[str]] = {}
    missing = []
    for name in names:
        path = folder / name
        if path.parent not in listed:
            listed[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in listed[path.parent]:
            missing.append(name)
    return missing


def _require_files(folder: Path, annotations: CocoAnnotations) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ValueError(f"image folder {folder} {what}; {annotations.file} names its images; check the path")
    missing = missing_files(folder, annotations.file_names)
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(annotations.file_names)} images that {annotations.file} lists are not in "
            f"{folder}: {some(missing)}; add them or correct the path"
        )
