"""Images with objects: readers of annotation formats, data sets and loaders."""

from a2mamba.data.detection.annotations import Category, DetectionAnnotations
from a2mamba.data.detection.config import DetectionData
from a2mamba.data.detection.dataset import CocoDataset, DetectionBatch, DetectionSample, UnfitSampleError
from a2mamba.data.detection.loaders import (
    eval_detection_loader,
    read_detection_split,
    train_detection_loader,
    with_detection_source,
)
from a2mamba.data.detection.readers import find_detection
from a2mamba.data.detection.readers.coco import read_annotations
from a2mamba.data.detection.readers.coco_categories import detection_categories
from a2mamba.data.detection.readers.source import DetectionSource

__all__ = [
    "Category",
    "CocoDataset",
    "DetectionAnnotations",
    "DetectionBatch",
    "DetectionData",
    "DetectionSample",
    "DetectionSource",
    "UnfitSampleError",
    "detection_categories",
    "eval_detection_loader",
    "find_detection",
    "read_annotations",
    "read_detection_split",
    "train_detection_loader",
    "with_detection_source",
]
