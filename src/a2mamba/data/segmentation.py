"""Semantic segmentation data: images and a class index for each pixel; layouts as in `segmentation_files`.

The defaults are the Swin and SegFormer protocols' on ADE20K. ADE20K and folders of one's own take the names of their
classes from root/classes.txt, one a line, where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.imagenet import IMAGENET_MEAN, IMAGENET_STD
from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.data.label_maps import (
    IGNORE_LABEL,
    LabelFileError,
    LabelMap,
    ade20k_labels,
    cityscapes_labels,
    class_labels,
    coco_stuff_labels,
    read_labels,
)
from a2mamba.data.label_names import (
    ADE20K_CLASSES,
    ADE20K_PALETTE,
    CITYSCAPES_CLASSES,
    CITYSCAPES_PALETTE,
    COCO_STUFF_CLASSES,
    Palette,
    distinct_palette,
)
from a2mamba.data.loader import BatchLoader, evaluation_batches
from a2mamba.data.names import describe_class_difference, some
from a2mamba.data.samplers import EpochSampler, RepeatedSampler
from a2mamba.data.seeded import SeededDataset
from a2mamba.data.segmentation_files import (
    SEGMENTATION_LAYOUTS,
    SegmentationPair,
    expected_layout,
    scan_segmentation,
)
from a2mamba.data.segmentation_transforms import (
    normalize,
    pad,
    photometric_distortion,
    random_box_resize,
    random_crop,
    random_flip,
)

CLASS_NAMES_FILE = "classes.txt"
_ADE20K_LIST = "objectInfo150.txt"
"""A file that comes with ADE20K: the numbers of its 150 classes."""


@dataclass(frozen=True, kw_only=True)
class SegmentationData:
    """Where images and labels are, and what happens to them on the way to the model.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    root: str
    """folder of the data set"""
    layout: str = "ade20k"
    """"ade20k", "cityscapes", "coco_stuff", or "folder" for images/ and masks/ of one's own"""
    train_split: str | None = None
    """folder to train on; None: the layout's own"""
    val_split: str | None = None
    """folder to evaluate on; None as above"""
    num_classes: int | None = None
    """number of classes that the data set must have; None: as many as it has"""
    crop_size: tuple[int, int] = (512, 512)
    """height and width of the training crop in pixels"""
    resize: tuple[int, int] = (2048, 512)
    """limits of the longer and of the shorter side, in pixels; images are scaled to fit, aspect kept"""
    ratio: tuple[float, float] = (0.5, 2.0)
    """range of the factor by which both limits are multiplied in training, drawn uniformly"""
    category_limit: float = 0.75
    """largest share of one class in a training crop; 1.0 switches the choice of crops off"""
    hflip: float = 0.5
    """probability of a horizontal flip"""
    photometric: bool = True
    """random brightness, contrast, saturation and hue"""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """red, green, blue; subtracted from values in [0, 1]"""
    std: tuple[float, ...] = IMAGENET_STD
    """red, green, blue; divides after that"""
    batch_size: int = 16
    """training images in one optimizer step: the total over all processes and forward passes; evaluation takes one
    image at a time"""
    workers: int = 8
    """loader processes of each process; 0 loads in the process itself"""

    def __post_init__(self) -> None:
        if self.layout not in SEGMENTATION_LAYOUTS:
            raise ValueError(f"layout={self.layout!r}: expected one of {', '.join(SEGMENTATION_LAYOUTS)}")
        for name in ("crop_size", "resize"):
            value = getattr(self, name)
            if len(value) != 2 or min(value) < 1:
                raise ValueError(f"{name}={value}: expected two numbers of 1 or more")
        if self.num_classes is not None and not 1 <= self.num_classes <= IGNORE_LABEL:
            raise ValueError(f"num_classes={self.num_classes}: expected 1 to 255; 255 is the ignored label")
        low, high = self.ratio
        if not 0 < low <= high:
            raise ValueError(f"ratio={self.ratio}: expected (low, high) with 0 < low <= high")
        if not 0 < self.category_limit <= 1:
            raise ValueError(f"category_limit={self.category_limit}: expected more than 0 and at most 1")
        if not 0 <= self.hflip <= 1:
            raise ValueError(f"hflip={self.hflip}: expected a probability, 0 to 1")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name}={getattr(self, name)}: expected 3 values, for red, green and blue")
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std}: expected positive values")
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: expected 1 or more")
        if self.workers < 0:
            raise ValueError(f"workers={self.workers}: expected 0 or more")


class SegmentationSample(NamedTuple):
    """One training crop: image float32 (3, H, W), normalized; target int64 (H, W); the image's file."""

    image: Tensor
    target: Tensor
    path: str


class SegmentationImage(NamedTuple):
    """One whole image at its own size: image uint8 (3, H, W); target int64 (H, W), classes and 255; its file."""

    image: Tensor
    target: Tensor
    path: str


class SegmentationBatch(NamedTuple):
    """images float32 (B, 3, H, W), normalized; targets int64 (B, H, W), class indices and 255; paths, B file names."""

    images: Tensor
    targets: Tensor
    paths: list[str]


def segmentation_classes(data: SegmentationData) -> list[str]:
    """Names of the classes in the order of their indices.

    Those of Cityscapes and COCO-Stuff are fixed. ADE20K and folders take them from root/classes.txt; ADE20K's own
    folder, which holds objectInfo150.txt, has its 150. Where there is no list, `data.num_classes` says how many there
    are, and without that the largest label of the training split, which takes a look into every label file.

    Raises:
        ValueError: the data set has another number of classes than `data.num_classes`, or no label files to look into.
    """
    names = listed_classes(data)
    if names is None:
        return classes_by_count(data, data.num_classes or _count_classes(data))
    if data.num_classes is not None and data.num_classes != len(names):
        raise ValueError(
            f"num_classes={data.num_classes}, but {data.root} (layout {data.layout!r}) has {len(names)} classes; "
            f"change num_classes, or {CLASS_NAMES_FILE} if it is wrong"
        )
    return names


def listed_classes(data: SegmentationData) -> list[str] | None:
    """Names of the classes where the layout or a file in root lists them, None otherwise.

    Raises:
        ValueError: root/classes.txt is no list of names.
    """
    root = Path(data.root)
    if data.layout == "cityscapes":
        return list(CITYSCAPES_CLASSES)
    if data.layout == "coco_stuff":
        return list(COCO_STUFF_CLASSES)
    if (root / CLASS_NAMES_FILE).is_file():
        return _read_names(root / CLASS_NAMES_FILE)
    if data.layout == "ade20k" and (root / _ADE20K_LIST).is_file():
        return list(ADE20K_CLASSES)
    return None


def classes_by_count(data: SegmentationData, count: int) -> list[str]:
    """Names of `count` classes that nobody has named: the number that each has in the label files."""
    if data.layout == "ade20k" and count == len(ADE20K_CLASSES):
        return list(ADE20K_CLASSES)  # the published data set without its list
    first = 1 if data.layout == "ade20k" else 0
    return [f"class_{first + index}" for index in range(count)]


def segmentation_palette(layout: str, num_classes: int) -> Palette:
    """A color for each class: the data set's own where it has them, made ones otherwise.

    Args:
        layout: as `SegmentationData.layout`.
        num_classes: 1 to 255.
    """
    known = {"ade20k": ADE20K_PALETTE, "cityscapes": CITYSCAPES_PALETTE}.get(layout, ())
    return known if len(known) == num_classes else distinct_palette(num_classes)


def segmentation_labels(layout: str, num_classes: int, *, converted: bool = False) -> LabelMap:
    """The table between a data set's label files and class indices; predictions are submitted through its inverse.

    Args:
        layout: as `SegmentationData.layout`.
        num_classes: of ADE20K or a folder.
        converted: of files that hold class indices already.
    """
    if converted or layout == "folder":
        return class_labels(num_classes)
    if layout == "ade20k":
        return ade20k_labels(num_classes)
    return cityscapes_labels() if layout == "cityscapes" else coco_stuff_labels()


class SegmentationFolder(Dataset[SegmentationSample]):
    """The images and class maps of one split, decoded when asked for.

    Args:
        pairs: images and their label files.
        layout: as `SegmentationData.layout`.
        classes: class names in index order.
        transform: (image uint8 (3, H, W), class indices uint8 (H, W)) -> both; None leaves them as they are.
    """

    def __init__(
        self,
        pairs: Sequence[SegmentationPair],
        *,
        layout: str,
        classes: Sequence[str],
        transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.pairs = list(pairs)
        self.classes = list(classes)
        self.transform = transform
        self.label_maps = {
            converted: segmentation_labels(layout, len(classes), converted=converted) for converted in (False, True)
        }

    def __len__(self) -> int:
        return len(self.pairs)

    def path(self, index: int) -> str:
        """The file name of a sample's image."""
        return self.pairs[index].image

    def __getitem__(self, index: int) -> SegmentationSample:
        """Decode, convert and transform one pair; the target is int64.

        Raises:
            LabelFileError: labels of another size than the image, out of range, or colors; it names the file.
            UndecodableImageError: naming the file.
        """
        pair = self.pairs[index]
        pixels, classes = read_pair(pair, self.label_maps[pair.converted])
        image, labels = torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(classes)
        if self.transform is not None:
            image, labels = self.transform(image, labels)
        return SegmentationSample(image, labels.long(), pair.image)


def read_pair(pair: SegmentationPair, label_map: LabelMap) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (H, W, 3) and class indices uint8 (H, W).

    Raises:
        LabelFileError: labels of another size than the image, out of range, or colors.
        UndecodableImageError: naming the file.
    """
    pixels = np.array(decode_image(pair.image))
    values = read_labels(pair.label)
    if values.shape != pixels.shape[:2]:
        (height, width), (high, wide) = values.shape, pixels.shape[:2]
        raise LabelFileError(
            pair.label, f"{width} x {height} pixels, but its image {pair.image} has {wide} x {high}; both must be equal"
        )
    return pixels, label_map.to_classes(values, path=pair.label)


def segmentation_folder(
    data: SegmentationData,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> SegmentationFolder:
    """The pairs of one split.

    Args:
        data: root, layout and number of classes.
        split: its folder.
        classes: class names in index order; None: `segmentation_classes`.
        transform: see `SegmentationFolder`.

    Raises:
        ValueError: folders are missing or hold no pairs, or an image or a label file is alone.
    """
    files = scan_segmentation(data.root, data.layout, split)
    for alone, what in (
        (files.images_alone, f"images without a label file in {files.labels}"),
        (files.labels_alone, f"label files without an image in {files.images}"),
        (files.doubles, "images that share a label file with another"),
    ):
        if alone:
            raise ValueError(f"{len(alone)} {what}: {some(alone)}; add or remove what is missing or extra")
    if not files.pairs:
        raise ValueError(f"{files.images} holds no images; expected {expected_layout(data.layout)}")
    names = segmentation_classes(data) if classes is None else list(classes)
    return SegmentationFolder(files.pairs, layout=data.layout, classes=names, transform=transform)


def class_shares(data: SegmentationData, *, classes: Sequence[str] | None = None, images: int = 200) -> list[float]:
    """The share of the labeled training pixels that each class has, 0 to 1, counted in evenly spaced label files.

    Label files that cannot be read are left out: it is training that replaces and names them.

    Args:
        data: what to look at.
        classes: class names in index order; None: `segmentation_classes`.
        images: label files to read at most.

    Raises:
        ValueError: as `segmentation_folder`.
    """
    folder = segmentation_folder(data, train_split(data), classes=classes)
    counts = np.zeros(256, dtype=np.int64)
    for pair in folder.pairs[:: -(-len(folder) // images)]:
        with suppress(UndecodableImageError):  # LabelFileError is one
            labels = folder.label_maps[pair.converted].to_classes(read_labels(pair.label), path=pair.label)
            counts += np.bincount(labels.ravel(), minlength=256)
    labeled = counts[: len(folder.classes)]
    return (labeled / max(1, labeled.sum())).tolist()


def segmentation_train_transform(data: SegmentationData) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The training pipeline: image uint8 (3, H, W), labels uint8 (H, W) -> float32 (3, *crop_size), uint8 crop_size."""
    return partial(_train_transform, data=data)


def train_segmentation_loader(
    data: SegmentationData,
    *,
    seed: int,
    classes: Sequence[str] | None = None,
    samples_per_epoch: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    micro_batch: int | None = None,
    pin_memory: bool = False,
) -> BatchLoader[SegmentationBatch]:
    """Shuffled, augmented batches of crops, all of one size; the incomplete last batch is left out.

    Args:
        data: what to load.
        seed: of order and augmentation; with the epoch it fixes both exactly.
        classes: class names in index order; None: `segmentation_classes`.
        samples_per_epoch: samples of all processes together that make an epoch, whatever the data set's size; None: the
            data set once.
        rank: this process.
        world_size: number of processes; every one gets the same number of batches.
        micro_batch: crops of one batch; None: this process's share of `data.batch_size`.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `segmentation_folder`, or fewer images than one batch.
    """
    transform = segmentation_train_transform(data)
    dataset = segmentation_folder(data, train_split(data), classes=classes, transform=transform)
    if samples_per_epoch is None:
        sampler = EpochSampler(len(dataset), shuffle=True, seed=seed, rank=rank, world_size=world_size)
    else:
        sampler = RepeatedSampler(
            len(dataset), samples_per_epoch=samples_per_epoch, seed=seed, rank=rank, world_size=world_size
        )
    size = micro_batch or data.batch_size // world_size
    if len(sampler) < size:
        most = len(sampler) * world_size
        raise ValueError(
            f"batch_size={data.batch_size} exceeds the {most} training images of an epoch; "
            f"set batch_size to at most {most}"
        )
    return BatchLoader(
        SeededDataset(dataset, seed),
        sampler,
        batch_size=size,
        collate=collate_crops,
        drop_last=True,
        workers=data.workers,
        pin_memory=pin_memory,
    )


def eval_segmentation_loader(
    data: SegmentationData,
    *,
    classes: Sequence[str] | None = None,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> BatchLoader[SegmentationImage]:
    """The evaluation split, one whole image at a time in a fixed order, each exactly once over all processes.

    Args:
        data: what to load.
        classes: class names in index order that the model was trained with; None: the data set's.
        rank: this process.
        world_size: number of processes; numbers of images may differ by one.
        pin_memory: copy images to page-locked memory.

    Raises:
        ValueError: as `segmentation_folder`, or other classes than in training.
    """
    dataset = segmentation_folder(data, val_split(data))
    if classes is not None:
        difference = describe_class_difference(list(classes), dataset.classes)
        if difference:
            raise ValueError(f"{data.root} has other classes than training: {difference}; both need the same classes")
    return evaluation_batches(
        dataset,
        batch_size=1,
        collate=_only,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def collate_crops(samples: Sequence[SegmentationSample]) -> SegmentationBatch:
    """Stack samples of one size."""
    images, targets, paths = zip(*samples, strict=True)
    return SegmentationBatch(torch.stack(images), torch.stack(targets), list(paths))


def train_split(data: SegmentationData) -> str:
    """The folder to train on."""
    return data.train_split or SEGMENTATION_LAYOUTS[data.layout].train_split


def val_split(data: SegmentationData) -> str:
    """The folder to evaluate on."""
    return data.val_split or SEGMENTATION_LAYOUTS[data.layout].val_split


def _train_transform(image: Tensor, labels: Tensor, data: SegmentationData) -> tuple[Tensor, Tensor]:
    image, labels = random_box_resize(image, labels, box=data.resize, ratio=data.ratio)
    image, labels = random_crop(image, labels, size=data.crop_size, category_limit=data.category_limit)
    image, labels = random_flip(image, labels, probability=data.hflip)
    if data.photometric:
        image = photometric_distortion(image)
    return pad(normalize(image, mean=data.mean, std=data.std), labels, size=data.crop_size)


def _only(samples: Sequence[SegmentationSample]) -> SegmentationImage:
    (sample,) = samples
    return SegmentationImage(*sample)


def _read_names(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text; expected one class name a line") from error
    names = [line.strip() for line in lines if line.strip()]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice or len(names) > IGNORE_LABEL:
        found = f"names given twice: {some(twice)}" if twice else f"{len(names)} names"
        raise ValueError(f"{file} holds {found}; expected 1 to 255 different class names, one a line")
    return names


def _count_classes(data: SegmentationData) -> int:
    """The number of classes that the largest label of the training split makes necessary."""
    shape = SEGMENTATION_LAYOUTS[data.layout]
    split = train_split(data)
    if not (Path(data.root) / shape.labels / split).is_dir():
        split = val_split(data)
    labels = [pair.label for pair in scan_segmentation(data.root, data.layout, split).pairs]
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        largest = max(pool.map(_largest_label, labels), default=-1)
    count = largest if data.layout == "ade20k" else largest + 1
    if count < 1:
        raise ValueError(
            f"no label in {Path(data.root) / shape.labels / split} is of a class; "
            f"write {data.root}/{CLASS_NAMES_FILE} or set num_classes"
        )
    return count


def _largest_label(path: str) -> int:
    values = read_labels(path)
    counted = values[values != IGNORE_LABEL]
    return int(counted.max()) if counted.size else -1
