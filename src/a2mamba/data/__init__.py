"""Data sets, transforms, samplers, the embedded demo data and the data set checker; knows no model."""

from a2mamba.data.check import DatasetReport, SplitReport, check_dataset
from a2mamba.data.class_folders import ImageFolder, ImageSample, class_names, image_folder
from a2mamba.data.demo import DemoSummary, demo_photos, write_demo
from a2mamba.data.detection.annotations import Category, DetectionAnnotations
from a2mamba.data.detection.dataset import (
    CocoDataset,
    DetectionBatch,
    DetectionSample,
    UnfitSampleError,
)
from a2mamba.data.detection.loading import (
    DetectionData,
    eval_detection_loader,
    read_detection_split,
    train_detection_loader,
    with_detection_source,
)
from a2mamba.data.detection.readers import find_detection
from a2mamba.data.detection.readers.coco import detection_categories, read_annotations
from a2mamba.data.detection.readers.source import DetectionSource
from a2mamba.data.imagenet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassificationBatch,
    ClassificationData,
    eval_loader,
    eval_transform,
    load_image,
    open_split,
    split_classes,
    train_loader,
    train_transform,
)
from a2mamba.data.images import IMAGE_EXTENSIONS, UndecodableImageError, decode_image
from a2mamba.data.label_conversion import ConversionSummary, convert_labels
from a2mamba.data.label_maps import (
    IGNORE_LABEL,
    LabelFileError,
    LabelMap,
    ade20k_labels,
    cityscapes_labels,
    class_labels,
    coco_stuff_labels,
    read_labels,
)
from a2mamba.data.label_names import ADE20K_CLASSES, CITYSCAPES_CLASSES, COCO_STUFF_CLASSES, Palette, distinct_palette
from a2mamba.data.loader import BatchLoader
from a2mamba.data.samplers import EpochSampler, GroupedSampler, RepeatedSampler, SampleKey
from a2mamba.data.seeded import SeededDataset, seeded
from a2mamba.data.segmentation import (
    SegmentationBatch,
    SegmentationData,
    SegmentationFolder,
    SegmentationImage,
    SegmentationSample,
    class_shares,
    eval_segmentation_loader,
    segmentation_classes,
    segmentation_folder,
    segmentation_labels,
    segmentation_palette,
    segmentation_train_transform,
    train_segmentation_loader,
)
from a2mamba.data.segmentation_files import SEGMENTATION_LAYOUTS, SegmentationPair, scan_segmentation
from a2mamba.data.segmentation_transforms import box_size, normalize, resize_image

__all__ = [
    "ADE20K_CLASSES",
    "CITYSCAPES_CLASSES",
    "COCO_STUFF_CLASSES",
    "IGNORE_LABEL",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_EXTENSIONS",
    "SEGMENTATION_LAYOUTS",
    "BatchLoader",
    "Category",
    "ClassificationBatch",
    "ClassificationData",
    "CocoDataset",
    "ConversionSummary",
    "DatasetReport",
    "DemoSummary",
    "DetectionAnnotations",
    "DetectionBatch",
    "DetectionData",
    "DetectionSample",
    "DetectionSource",
    "EpochSampler",
    "GroupedSampler",
    "ImageFolder",
    "ImageSample",
    "LabelFileError",
    "LabelMap",
    "Palette",
    "RepeatedSampler",
    "SampleKey",
    "SeededDataset",
    "SegmentationBatch",
    "SegmentationData",
    "SegmentationFolder",
    "SegmentationImage",
    "SegmentationPair",
    "SegmentationSample",
    "SplitReport",
    "UndecodableImageError",
    "UnfitSampleError",
    "ade20k_labels",
    "box_size",
    "check_dataset",
    "cityscapes_labels",
    "class_labels",
    "class_names",
    "class_shares",
    "coco_stuff_labels",
    "convert_labels",
    "decode_image",
    "demo_photos",
    "detection_categories",
    "distinct_palette",
    "eval_detection_loader",
    "eval_loader",
    "eval_segmentation_loader",
    "eval_transform",
    "find_detection",
    "image_folder",
    "load_image",
    "normalize",
    "open_split",
    "read_annotations",
    "read_detection_split",
    "read_labels",
    "resize_image",
    "scan_segmentation",
    "seeded",
    "segmentation_classes",
    "segmentation_folder",
    "segmentation_labels",
    "segmentation_palette",
    "segmentation_train_transform",
    "split_classes",
    "train_detection_loader",
    "train_loader",
    "train_segmentation_loader",
    "train_transform",
    "with_detection_source",
    "write_demo",
]
