"""What is to be loaded of a detection data set, and how: `DetectionData`; COCO's annotations by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from a2mamba.data.detection.datasets import coco
from a2mamba.data.detection.readers import READERS
from a2mamba.field_checks import at_least, one_of, probability, share


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """Where images and annotations are and what happens to them on the way to the model.

    The defaults are those of the 3x multi-scale protocol that Swin, VMamba and others follow on COCO 2017.

    Raises:
        ValueError: a value out of its range; the message names the field.
    """

    root: str
    """folder that the four paths below are relative to"""
    layout: str = "coco"
    """annotation format: coco, yolo, voc, labelme or cvat"""
    train_images: str = coco.TRAIN_IMAGES
    """folder of the training images"""
    train_annotations: str = coco.TRAIN_ANNOTATIONS
    """annotation file of the training images, or the folder of their files where there is one for each image"""
    val_images: str = coco.VAL_IMAGES
    """folder of the evaluation images"""
    val_annotations: str = coco.VAL_ANNOTATIONS
    """annotation file or folder of the evaluation images"""
    train_subset: str = ""
    """what the training split is called inside of an annotation file that holds several: a subset of CVAT's, a key of
    data.yaml that names several places"""
    val_subset: str = ""
    """what the evaluation split is called there"""
    holdout: float = 0.0
    """share of the images that are evaluated on and not trained on, where both splits are the same files"""
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
        one_of(self, "layout", tuple(READERS))
        share(self, "holdout")
        at_least(self, 1, "batch_size", "eval_batch_size", "max_size")
        at_least(self, 0, "workers", "min_image_side")
        probability(self, "hflip", "crop_probability")
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
