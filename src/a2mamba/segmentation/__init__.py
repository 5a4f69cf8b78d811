"""Semantic segmentation: SegMAN-V2, SegMAN and UperNet, their loss, and their test modes."""

from a2mamba.backbone import fuse_for_inference
from a2mamba.segmentation.factory import SegmenterOptions, check_segmenter, create_segmenter, list_segmenters, upernet
from a2mamba.segmentation.inference import TEST_MODES, TestMode, predict
from a2mamba.segmentation.losses import IGNORE_INDEX, pixel_cross_entropy
from a2mamba.segmentation.segman import SegMANConfig
from a2mamba.segmentation.segman_v2 import SegMANV2Config
from a2mamba.segmentation.segmenter import Segmenter

fuse_segmenter = fuse_for_inference
"""The former name."""

__all__ = [
    "IGNORE_INDEX",
    "TEST_MODES",
    "SegMANConfig",
    "SegMANV2Config",
    "Segmenter",
    "SegmenterOptions",
    "TestMode",
    "check_segmenter",
    "create_segmenter",
    "fuse_segmenter",
    "list_segmenters",
    "pixel_cross_entropy",
    "predict",
    "upernet",
]
