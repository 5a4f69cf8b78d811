"""Data sets, transforms, samplers, the embedded demo data and the data set checker; knows no model."""

from a2mamba.data.check import DatasetReport, SplitReport, check_dataset
from a2mamba.data.demo import DemoSummary, demo_photos, write_demo
from a2mamba.data.imagenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassificationBatch,
    ClassificationData,
    ImageFolder,
    ImageSample,
    class_names,
    eval_loader,
    eval_transform,
    image_folder,
    load_image,
    train_loader,
    train_transform,
)
from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, decode_image
from a2mamba.data.loader import BatchLoader
from a2mamba.data.samplers import EpochSampler, RepeatedSampler, SampleKey
from a2mamba.data.seeded import SeededDataset, seeded

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_EXTENSIONS",
    "BatchLoader",
    "ClassificationBatch",
    "ClassificationData",
    "DatasetReport",
    "DemoSummary",
    "EpochSampler",
    "ImageFolder",
    "ImageSample",
    "RepeatedSampler",
    "SampleKey",
    "SeededDataset",
    "SplitReport",
    "UndecodableImageError",
    "check_dataset",
    "class_names",
    "decode_image",
    "demo_photos",
    "eval_loader",
    "eval_transform",
    "image_folder",
    "load_image",
    "seeded",
    "train_loader",
    "train_transform",
    "write_demo",
]
