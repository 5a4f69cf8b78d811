"""Images with a class for each pixel."""

from a2mamba.data.segmentation.config import SegmentationData
from a2mamba.data.segmentation.conversion import ConversionSummary, convert_labels
from a2mamba.data.segmentation.datasets import SEGMENTATION_DATASETS, register_dataset
from a2mamba.data.segmentation.datasets.ade20k import ADE20K_CLASSES, ade20k_labels
from a2mamba.data.segmentation.datasets.cityscapes import CITYSCAPES_CLASSES, cityscapes_labels
from a2mamba.data.segmentation.datasets.coco_stuff import COCO_STUFF_CLASSES, coco_stuff_labels
from a2mamba.data.segmentation.datasets.spec import Palette, Protocol, SegmentationDataset, distinct_palette
from a2mamba.data.segmentation.files import SegmentationLayout, SegmentationPair
from a2mamba.data.segmentation.labels import (
    IGNORE_LABEL,
    ColorMap,
    LabelFileError,
    LabelMap,
    class_labels,
    read_labels,
)
from a2mamba.data.segmentation.loaders import (
    SegmentationBatch,
    SegmentationFolder,
    SegmentationImage,
    SegmentationSample,
    class_shares,
    eval_segmentation_loader,
    normalize_crops,
    segmentation_folder,
    segmentation_train_transform,
    train_segmentation_loader,
)
from a2mamba.data.segmentation.source import (
    scan_segmentation,
    segmentation_classes,
    segmentation_labels,
    segmentation_palette,
    train_split,
    val_split,
)
from a2mamba.data.segmentation.transforms import box_size, normalize, resize_image

__all__ = [
    "ADE20K_CLASSES",
    "CITYSCAPES_CLASSES",
    "COCO_STUFF_CLASSES",
    "IGNORE_LABEL",
    "SEGMENTATION_DATASETS",
    "ColorMap",
    "ConversionSummary",
    "LabelFileError",
    "LabelMap",
    "Palette",
    "Protocol",
    "SegmentationBatch",
    "SegmentationData",
    "SegmentationDataset",
    "SegmentationFolder",
    "SegmentationImage",
    "SegmentationLayout",
    "SegmentationPair",
    "SegmentationSample",
    "ade20k_labels",
    "box_size",
    "cityscapes_labels",
    "class_labels",
    "class_shares",
    "coco_stuff_labels",
    "convert_labels",
    "distinct_palette",
    "eval_segmentation_loader",
    "normalize",
    "normalize_crops",
    "read_labels",
    "register_dataset",
    "resize_image",
    "scan_segmentation",
    "segmentation_classes",
    "segmentation_folder",
    "segmentation_labels",
    "segmentation_palette",
    "segmentation_train_transform",
    "train_segmentation_loader",
    "train_split",
    "val_split",
]
