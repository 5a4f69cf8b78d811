"""What is to be loaded of a segmentation data set, and how: `SegmentationData`."""

from __future__ import annotations

from dataclasses import dataclass

from a2mamba.data.classification.config import IMAGENET_MEAN, IMAGENET_STD
from a2mamba.data.segmentation.datasets import SEGMENTATION_DATASETS
from a2mamba.data.segmentation.labels import IGNORE_LABEL
from a2mamba.field_checks import (
    at_least,
    one_of,
    positive_fraction,
    positive_range,
    positive_values,
    probability,
    share,
)


@dataclass(frozen=True, kw_only=True)
class SegmentationData:
    """Where images and labels are, and what happens to them on the way to the model.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    root: str
    """folder of the data set"""
    layout: str = "ade20k"
    """a published data set, such as "ade20k", or "folder" for images and masks of one's own, see `folders`"""
    train_split: str | None = None
    """folder to train on; None: the layout's own"""
    val_split: str | None = None
    """folder to evaluate on; None as above"""
    holdout: float = 0.0
    """share of the training images to evaluate on instead of val_split; 0: there is an evaluation split"""
    label_values: tuple[int, ...] | None = None
    """number of each class in the label files, in the order of the classes; None: found out, see `conventions`"""
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
        one_of(self, "layout", (*SEGMENTATION_DATASETS, "folder"))
        for name in ("crop_size", "resize"):
            value = getattr(self, name)
            if len(value) != 2 or min(value) < 1:
                raise ValueError(f"{name}={value}: expected two numbers of 1 or more")
        if self.num_classes is not None and not 1 <= self.num_classes <= IGNORE_LABEL:
            raise ValueError(f"num_classes={self.num_classes}: expected 1 to 255; 255 is the ignored label")
        share(self, "holdout")
        positive_range(self, "ratio")
        positive_fraction(self, "category_limit")
        probability(self, "hflip")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name}={getattr(self, name)}: expected 3 values, for red, green and blue")
        positive_values(self, "std")
        at_least(self, 1, "batch_size")
        at_least(self, 0, "workers")
