"""Classification data: pictures with one class each, from class folders, tar shards or the Hugging Face hub.

    root/train/<class>/<image>    the class index is the position of the class folder in natural order
    root/val/<class>/<image>      the same class folders

Folders are walked by timm's reader and pictures transformed by timm's factory; tar shards are walked by `shards`.
Decoding is our own: timm's data set replaces an undecodable picture by its neighbour, and a run should say which file
is bad instead. Whatever the source, pictures are reached by their index, so that order, sharding over processes and
resuming are the same for all.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, decode_image, image_mode
from a2mamba.data.loader import BatchLoader
from a2mamba.data.samplers import EpochSampler
from a2mamba.data.seeded import SeededDataset
from a2mamba.data.shards import ShardReader, class_list, find_shards

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_HOLDOUT_STREAM = 3  # see samplers._STREAM
_INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")


@dataclass(frozen=True, kw_only=True)
class ClassificationData:
    """Where the pictures are and what happens to them on the way to the model. The defaults are the paper's.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    root: str
    """folder that holds the splits; with source=hfds the data set's name on the hub"""
    source: Literal["folder", "tar", "wds", "hfds"] = "folder"
    """folder: class folders; tar: class folders inside of tar files; wds: WebDataset's tar files; hfds: from the hub"""
    train_split: str | None = "train"
    """folder under root (of the hub: split) to train on; None: root itself holds the class folders"""
    val_split: str | None = "val"
    """folder under root to evaluate on; None as above"""
    holdout: float = 0.0
    """share of each class's training pictures to evaluate on instead of val_split; 0: there is an evaluation split"""
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
    crop_mode: Literal["center", "squash"] = "center"
    """center: as above; squash: evaluation resizes both sides, whatever their ratio"""
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
    mixup: float = 0.8
    """alpha of Mixup; 0 switches it off"""
    cutmix: float = 1.0
    """alpha of CutMix, drawn as often as Mixup where both are on; 0 switches it off"""
    reprob: float = 0.25
    """probability of random erasing with noise, after mixing and normalisation"""
    batch_size: int = 2048
    """training pictures in one optimizer step: the total over all processes and forward passes"""
    eval_batch_size: int = 256
    """evaluation pictures in one forward pass of one process"""
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
        for name in ("color_jitter", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout={self.holdout}: expected a share, 0 to less than 1")
        if self.source == "hfds" and self.train_split is None:
            raise ValueError("train_split=None: source=hfds needs the name of a split")
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
    """images (B, C, H, W); targets int64 (B,); paths, B file names.

    Evaluation images are float32 and normalised. Training images are uint8: mixing, normalisation and erasing follow
    on the device, see `mixing`, and a quarter of the bytes has to travel there.
    """

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

    def part(self, share: float, *, heldout: bool) -> ImageFolder:
        """The held-out part, or the others: `share` of each class, at least one picture, and never the last one.

        Which pictures these are depends on their order and number alone, so that every run holds out the same.

        Raises:
            ValueError: a class has a single picture, which cannot be on both sides.
        """
        targets = getattr(self.reader, "targets", None)
        targets = np.asarray([target for _, target in self.reader.samples] if targets is None else targets)
        chosen = np.zeros(len(targets), dtype=bool)
        for label in np.unique(targets):
            members = np.flatnonzero(targets == label)
            if len(members) < 2:
                raise ValueError(
                    f"class {self.classes[label]!r} has one picture, so that none can be held out; add pictures to it"
                )
            count = min(max(1, round(share * len(members))), len(members) - 1)
            order = np.random.default_rng((_HOLDOUT_STREAM, int(label))).permutation(members)
            chosen[order[:count]] = True
        kept = copy.copy(self)
        kept.reader = _Part(self.reader, np.flatnonzero(chosen if heldout else ~chosen))
        return kept

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
) -> ImageFolder:
    """The pictures of a split, whatever the source.

    Args:
        data: the source, where it is, and the channels.
        split: name of the split; None: root itself.
        transform: a picture -> tensor (C, H, W); None gives uint8 pixels.
        classes: class names in index order, for the source that has numbers in their place (wds); None: those of
            root/classes.txt, or the numbers that the split has.

    Raises:
        ValueError: as `image_folder` and `ShardReader`; a split that the hub does not have.
    """
    if data.source == "folder":
        return image_folder(data.root, split, transform=transform, in_chans=data.in_chans)
    if data.source == "hfds":
        hub = _HubReader(data.root, split or "")
        return ImageFolder(hub, classes=hub.classes, transform=transform, in_chans=data.in_chans)
    shards = find_shards(data.root, split)
    if data.source == "wds":
        reader = ShardReader(shards, labels="cls", classes=classes or class_list(data.root))
    else:
        reader = ShardReader(shards, labels="folder")
    return ImageFolder(reader, classes=reader.classes, transform=transform, in_chans=data.in_chans)


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
        self.targets = np.fromiter(self.reader.iter_targets(), dtype=np.int64, count=len(self.reader))

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.reader[index]

    def filename(self, index: int, *, absolute: bool = False) -> str:
        """The data set, the split and the row: pictures of the hub need not have names."""
        return f"{self.name if absolute else ''}[{self.split}][{index}]"


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


def train_transform(data: ClassificationData) -> Callable[[Image.Image], Tensor]:
    """Random crop, flip, augmentation: a picture -> uint8 (C, image_size, image_size). `mixing` has what follows.

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
            mean=data.mean,  # the colour of what geometric operations uncover
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
    """Resize, centre crop, normalisation: a picture of any size -> float32 (C, image_size, image_size)."""
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
    """One picture as evaluation would see it: float32 (C, image_size, image_size).

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
    """Raise ValueError where there are fewer training pictures than one optimizer step takes."""
    if samples < data.batch_size:
        raise ValueError(
            f"data.batch_size={data.batch_size} exceeds the {samples} training images; "
            f"set data.batch_size to at most {samples}"
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
        micro_batch: pictures in one batch; it divides the process's share of `data.batch_size`, which is the default.
        pin_memory: copy batches to page-locked memory.

    Raises:
        ValueError: as `image_folder`, or fewer pictures than one step.
    """
    dataset = open_split(data, data.train_split, transform=train_transform(data))
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
    split = data.train_split if data.holdout else data.val_split
    dataset = open_split(data, split, transform=eval_transform(data), classes=classes)
    if data.holdout:
        dataset = dataset.part(data.holdout, heldout=True)
    if classes is None and data.train_split is not None and (Path(data.root) / data.train_split).is_dir():
        classes = split_classes(data, data.train_split)
    if classes is not None:
        difference = describe_class_difference(list(classes), dataset.classes)
        if difference:
            raise ValueError(
                f"{data.root}, split {split!r}, has other classes than training: {difference}; "
                f"both need the same classes"
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
