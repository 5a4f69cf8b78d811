"""A2Mamba: vision backbones that mix attention with state-space models, on any machine without compiling."""

from a2mamba import ops
from a2mamba.backbone import create_model, list_models, load_checkpoint, to_released

__version__ = "0.1.0"

__all__ = ["__version__", "create_model", "list_models", "load_checkpoint", "ops", "to_released"]
