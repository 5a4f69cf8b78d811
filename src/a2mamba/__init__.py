"""A2Mamba: vision backbones that mix attention with state-space models, on any machine without compiling.

Importing this imports neither torch nor timm: names are imported when they are first used, and the models are
registered with timm as soon as timm is there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from a2mamba.after_import import after_import

if TYPE_CHECKING:
    from a2mamba import analysis, ops
    from a2mamba.backbone import (
        cpu_graph,
        create_model,
        cuda_graph,
        fuse_for_inference,
        list_models,
        load_checkpoint,
        to_released,
    )
    from a2mamba.detection import create_detector, list_detectors
    from a2mamba.predictor import Predictor, load
    from a2mamba.segmentation import create_segmenter, list_segmenters

__version__ = "0.1.0"

__all__ = [
    "Predictor",
    "__version__",
    "analysis",
    "cpu_graph",
    "create_detector",
    "create_model",
    "create_segmenter",
    "cuda_graph",
    "fuse_for_inference",
    "list_detectors",
    "list_models",
    "list_segmenters",
    "load",
    "load_checkpoint",
    "ops",
    "to_released",
]

_HOMES = {
    "cpu_graph": "backbone",
    "create_detector": "detection",
    "create_model": "backbone",
    "create_segmenter": "segmentation",
    "cuda_graph": "backbone",
    "fuse_for_inference": "backbone",
    "list_detectors": "detection",
    "list_models": "backbone",
    "list_segmenters": "segmentation",
    "load": "predictor",
    "load_checkpoint": "backbone",
    "Predictor": "predictor",
    "to_released": "backbone",
}


def __getattr__(name: str) -> Any:
    """Import a name from its home at its first use."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"a2mamba.{_HOMES[name]}"), name)
    if name in ("analysis", "ops"):
        return importlib.import_module(f"a2mamba.{name}")
    raise AttributeError(f"module 'a2mamba' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names that are not imported yet, too."""
    return sorted({*globals(), *__all__})


after_import("timm", "a2mamba.backbone", but_not_inside=["a2mamba.layers"])
