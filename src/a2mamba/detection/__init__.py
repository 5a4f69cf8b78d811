"""Mask R-CNN and Cascade Mask R-CNN."""

from a2mamba.detection.config import DetectorConfig, RoIConfig, RPNConfig
from a2mamba.detection.detector import Detector
from a2mamba.detection.factory import DetectorOptions, create_detector, detector_config, list_detectors
from a2mamba.detection.flops import DummyForward, parameters_by_module
from a2mamba.detection.from_torchvision import from_torchvision
from a2mamba.detection.masks import iter_masks, paste_masks

__all__ = [
    "Detector",
    "DetectorConfig",
    "DetectorOptions",
    "DummyForward",
    "RPNConfig",
    "RoIConfig",
    "create_detector",
    "detector_config",
    "from_torchvision",
    "iter_masks",
    "list_detectors",
    "parameters_by_module",
    "paste_masks",
]
