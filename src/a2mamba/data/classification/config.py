"""What classification data can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from a2mamba.data.classification.datasets import IMAGENET
from a2mamba.data.images import image_mode
from a2mamba.field_checks import (
    at_least,
    one_of,
    positive_fraction,
    positive_range,
    positive_values,
    probability,
    share,
)

IMAGENET_MEAN = IMAGENET.mean
IMAGENET_STD = IMAGENET.std
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
        at_least(self, 1, "image_size", "batch_size", "eval_batch_size")
        at_least(self, 0, "workers", "color_jitter", "mixup", "cutmix")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_chans:
                raise ValueError(f"{name}={getattr(self, name)}: in_chans={self.in_chans} needs {self.in_chans} values")
        positive_values(self, "std")
        positive_fraction(self, "crop_pct")
        probability(self, "hflip", "reprob")
        positive_range(self, "scale", "ratio")
        if self.scale[1] > 1:
            raise ValueError(f"scale={self.scale}: the crop's area cannot exceed the image's, 1.0")
        share(self, "holdout")
        if self.source in ("hfds", "csv") and self.train_split is None:
            raise ValueError(f"train_split=None: source={self.source} needs the name of a split")
        one_of(self, "interpolation", _INTERPOLATIONS)
        one_of(self, "train_interpolation", ("random", *_INTERPOLATIONS))
        if self.in_chans == 4 and (self.auto_augment or self.color_jitter):
            raise ValueError(
                "in_chans=4: color augmentation is not defined on RGBA; set auto_augment=None, color_jitter=0"
            )
