"""A2Mamba: vision backbones that mix attention with state-space models, on any machine without compiling."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from a2mamba import ops
from a2mamba.backbone import create_model, fuse_for_inference, list_models, load_checkpoint, to_released
from a2mamba.detection import create_detector, list_detectors
from a2mamba.segmentation import create_segmenter, list_segmenters

if TYPE_CHECKING:
    from a2mamba import analysis
    from a2mamba.predictor import Predictor, load

__version__ = "0.1.0"

__all__ = [
    "Predictor",
    "__version__",
    "analysis",
    "create_detector",
    "create_model",
    "create_segmenter",
    "fuse_for_inference",
    "list_detectors",
    "list_models",
    "list_segmenters",
    "load",
    "load_checkpoint",
    "ops",
    "to_released",
]


def __getattr__(name: str) -> Any:
    """Import what needs more than a model does when it is first used."""
    if name == "analysis":
        return importlib.import_module("a2mamba.analysis")
    if name in ("Predictor", "load"):
        return getattr(importlib.import_module("a2mamba.predictor"), name)
    raise AttributeError(f"module 'a2mamba' has no attribute {name!r}")
