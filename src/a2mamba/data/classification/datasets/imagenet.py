"""ImageNet-1K, as it is arranged for training: class folders named by WordNet ids."""

from __future__ import annotations

from typing import NamedTuple


class ClassificationDataset(NamedTuple):
    """A published data set of class folders: where recipes look for it, and how much of it there is."""

    name: str
    folder: str
    train_split: str
    val_split: str
    classes: int
    images: tuple[int, int]
    """how many there are to train on, and to evaluate on"""
    mean: tuple[float, float, float]
    """of red, green and blue, in [0, 1]"""
    std: tuple[float, float, float]
    """as above"""


IMAGENET = ClassificationDataset(
    name="imagenet",
    folder="data/imagenet",
    train_split="train",
    val_split="val",
    classes=1000,
    images=(1_281_167, 50_000),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
"""ILSVRC 2012. The names of the classes are those of the folders, in natural order."""
