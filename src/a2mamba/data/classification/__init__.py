"""Images with one class each."""

from a2mamba.data.classification.class_folders import ImageFolder, ImageSample, class_names, image_folder
from a2mamba.data.classification.config import IMAGENET_MEAN, IMAGENET_STD, ClassificationData
from a2mamba.data.classification.datasets import IMAGENET
from a2mamba.data.classification.loaders import ClassificationBatch, check_batch, eval_loader, train_loader
from a2mamba.data.classification.mixing import BatchTransform
from a2mamba.data.classification.splits import open_split, split_classes
from a2mamba.data.classification.transforms import eval_transform, load_image, train_transform

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
