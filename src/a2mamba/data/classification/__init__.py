"""Images with one class each."""

from a2mamba.data.classification.class_folders import ImageFolder, ImageSample, class_names, image_folder
from a2mamba.data.classification.datasets import IMAGENET
from a2mamba.data.classification.loaders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassificationBatch,
    ClassificationData,
    check_batch,
    eval_loader,
    eval_transform,
    load_image,
    open_split,
    split_classes,
    train_loader,
    train_transform,
)
from a2mamba.data.classification.mixing import BatchTransform

__all__ = [
    "IMAGENET",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "BatchTransform",
    "ClassificationBatch",
    "ClassificationData",
    "ImageFolder",
    "ImageSample",
    "check_batch",
    "class_names",
    "eval_loader",
    "eval_transform",
    "image_folder",
    "load_image",
    "open_split",
    "split_classes",
    "train_loader",
    "train_transform",
]
