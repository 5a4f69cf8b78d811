"""Semantic segmentation data: images and a class index for each pixel, as batches.

The defaults are the Swin and SegFormer protocols' on ADE20K.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.images import UndecodableImageError, decode_image, image_size
from a2mamba.data.loading.loader import BatchLoader, evaluation_batches
from a2mamba.data.loading.samplers import EpochSampler, RepeatedSampler
from a2mamba.data.loading.seeded import SeededDataset
from a2mamba.data.names import describe_class_difference, some
from a2mamba.data.segmentation.config import SegmentationData
from a2mamba.data.segmentation.files import SegmentationPair
from a2mamba.data.segmentation.labels import AnyLabelMap, LabelFileError, class_labels
from a2mamba.data.segmentation.source import (
    Convention,
    find_convention,
    find_layout,
    part,
    scan_segmentation,
    train_split,
    val_split,
)
from a2mamba.data.segmentation.transforms import (
    normalize,
    pad,
    photometric_distortion,
    random_box_resize,
    random_crop,
    random_flip,
)


class SegmentationSample(NamedTuple):
    """One image or training crop: image uint8 (3, H, W), target int64 (H, W); the image's file."""

    image: Tensor
    target: Tensor
    path: str


class SegmentationImage(NamedTuple):
    """One whole image at its own size: image uint8 (3, H, W); target int64 (H, W), classes and 255; its file."""

    image: Tensor
    target: Tensor
    path: str


class SegmentationBatch(NamedTuple):
    """images uint8 (B, 3, H, W); targets uint8 (B, H, W), class indices and 255; paths, B file names.

    sizes int64 (B, 2): height and width of each crop, which lies in the upper left corner and is padded to (H, W);
    None: all of them are whole. Normalization follows on the device, see `normalize_crops`: a quarter of the bytes of
    images, and an eighth of those of targets, has to travel there.
    """

    images: Tensor
    targets: Tensor
    paths: list[str]
    sizes: Tensor | None = None


def normalize_crops(
    batch: SegmentationBatch, *, mean: tuple[float, ...], std: tuple[float, ...], channels_last: bool = False
) -> Tensor:
    """The images of a batch, normalized, float32 (B, 3, H, W); the padding is 0, the mean color.

    Args:
        batch: on any device.
        mean: of each channel, for values in [0, 1].
        std: as above.
        channels_last: memory format of the result.
    """
    images = normalize(batch.images, mean=mean, std=std)
    if batch.sizes is not None:
        height, width = images.shape[-2:]
        rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
        inside = (rows[:, None] < batch.sizes[:, 0, None, None]) & (columns < batch.sizes[:, 1, None, None])
        images = images.masked_fill_(~inside[:, None], 0.0)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


class SegmentationFolder(Dataset[SegmentationSample]):
    """The images and class maps of one split, decoded when asked for.

    Args:
        pairs: images and their label files.
        label_map: what the label files hold.
        classes: class names in index order.
        transform: (image uint8 (3, H, W), class indices uint8 (H, W)) -> both; None leaves them as they are.
    """

    def __init__(
        self,
        pairs: Sequence[SegmentationPair],
        *,
        label_map: AnyLabelMap,
        classes: Sequence[str],
        transform: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.pairs = list(pairs)
        self.classes = list(classes)
        self.transform = transform
        self.label_map = label_map
        self.converted = class_labels(len(classes))

    def __len__(self) -> int:
        return len(self.pairs)

    def path(self, index: int) -> str:
        """The file name of a sample's image."""
        return self.pairs[index].image

    def map_of(self, pair: SegmentationPair) -> AnyLabelMap:
        """What the label file of a pair holds."""
        return self.converted if pair.converted else self.label_map

    def __getitem__(self, index: int) -> SegmentationSample:
        """Decode, convert and transform one pair; the target is int64.

        Raises:
            LabelFileError: labels of another size than the image, out of range, or colors; it names the file.
            UndecodableImageError: naming the file.
        """
        pair = self.pairs[index]
        pixels, classes = read_pair(pair, self.map_of(pair))
        image, labels = torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(classes)
        if self.transform is not None:
            image, labels = self.transform(image, labels)
        return SegmentationSample(image, labels.long(), pair.image)


def read_pair(pair: SegmentationPair, label_map: AnyLabelMap) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 (H, W, 3) and class indices uint8 (H, W).

    Raises:
        LabelFileError: labels of another size than the image, out of range, or colors.
        UndecodableImageError: naming the file.
    """
    pixels = np.array(decode_image(pair.image))
    classes = label_map.read(pair.label)
    if classes.shape != pixels.shape[:2]:
        raise LabelFileError(pair.label, size_difference(pair.image, classes.shape, pixels.shape[:2]))
    return pixels, classes


def size_difference(image: str, labels: tuple[int, ...], pixels: tuple[int, ...]) -> str:
    """Why a label file and its image do not fit, one line: their sizes, and whether the camera's EXIF is to blame."""
    (height, width), (high, wide) = labels, pixels
    text = f"{width} x {height} pixels, but its image {image} has {wide} x {high}; both must be equal"
    if (height, width) == (wide, high) and image_size(image).turned:
        text += (
            "; the image is turned by its EXIF orientation, and was labeled without: turn the label file, or save the "
            "image without EXIF"
        )
    return text


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
        (files.label_doubles, f"label files in {files.labels} whose image has another one"),
    ):
        if alone:
            raise ValueError(f"{len(alone)} {what}: {some(alone)}; add or remove what is missing or extra")
    if not files.pairs:
        expected = find_layout(data.root, data.layout).expected()
        raise ValueError(f"{files.images} holds no images; expected {expected}")
    convention = find_convention(data)
    names = convention.classes if classes is None else list(classes)
    return SegmentationFolder(files.pairs, label_map=convention.label_map, classes=names, transform=transform)


def refuse_unlearnable(root: Path | str, convention: Convention) -> None:
    """ValueError where the training masks show fewer than two classes."""
    if convention.seen is not None and len(convention.seen) < 2:
        shown = some(convention.classes[label] for label in sorted(convention.seen)) or "none"
        raise ValueError(
            f"nothing can be learned from {root}: its training masks show {len(convention.seen)} class ({shown}), and "
            f"learning needs two; export them with another number for each class, or state the numbers of the classes "
            f"with data.label_values=0,255"
        )


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
    pairs = part(folder.pairs, data.holdout, held_out=False)
    counts = np.zeros(256, dtype=np.int64)
    for pair in pairs[:: -(-len(pairs) // images)]:
        with suppress(UndecodableImageError):  # LabelFileError is one
            labels = folder.map_of(pair).read(pair.label)
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
    dataset = segmentation_folder(data, train_split(data), classes=classes, transform=partial(_crop, data=data))
    refuse_unlearnable(data.root, find_convention(data))
    dataset.pairs = part(dataset.pairs, data.holdout, held_out=False)
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
        collate=partial(collate_crops, size=data.crop_size),
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
    return evaluation_batches(
        eval_segmentation_dataset(data, classes=classes),
        batch_size=1,
        collate=_only,
        workers=data.workers,
        rank=rank,
        world_size=world_size,
        pin_memory=pin_memory,
    )


def eval_segmentation_dataset(data: SegmentationData, *, classes: Sequence[str] | None = None) -> SegmentationFolder:
    """The images to evaluate on; see `eval_segmentation_loader`."""
    dataset = segmentation_folder(data, val_split(data))
    dataset.pairs = part(dataset.pairs, data.holdout, held_out=True)
    if classes is not None:
        difference = describe_class_difference(list(classes), dataset.classes)
        if difference:
            raise ValueError(f"{data.root} has other classes than training: {difference}; both need the same classes")
    return dataset


def collate_crops(samples: Sequence[SegmentationSample], *, size: tuple[int, int]) -> SegmentationBatch:
    """Pad crops to one size, and stack them."""
    images, targets, paths = zip(*samples, strict=True)
    padded = [pad(image, target.to(torch.uint8), size=size) for image, target in zip(images, targets, strict=True)]
    sizes = torch.tensor([target.shape for target in targets])
    whole = bool((sizes == torch.tensor(size)).all())
    return SegmentationBatch(
        torch.stack([image for image, _ in padded]),
        torch.stack([target for _, target in padded]),
        list(paths),
        None if whole else sizes,
    )


def _crop(image: Tensor, labels: Tensor, data: SegmentationData) -> tuple[Tensor, Tensor]:
    """The training pipeline up to its uint8 crop, whose sides are at most those of `data.crop_size`."""
    image, labels = random_box_resize(image, labels, box=data.resize, ratio=data.ratio)
    image, labels = random_crop(image, labels, size=data.crop_size, category_limit=data.category_limit)
    image, labels = random_flip(image, labels, probability=data.hflip)
    return (photometric_distortion(image) if data.photometric else image), labels


def _train_transform(image: Tensor, labels: Tensor, data: SegmentationData) -> tuple[Tensor, Tensor]:
    image, labels = _crop(image, labels, data)
    return pad(normalize(image, mean=data.mean, std=data.std), labels, size=data.crop_size)


def _only(samples: Sequence[SegmentationSample]) -> SegmentationImage:
    (sample,) = samples
    return SegmentationImage(*sample)
