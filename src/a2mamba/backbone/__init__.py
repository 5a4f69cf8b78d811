"""Backbones, their variants and their weights. Importing this registers the models with timm."""

from a2mamba.backbone.a2mamba import A2Mamba
from a2mamba.backbone.ablations import Ablation
from a2mamba.backbone.checkpoint import LoadReport, load_checkpoint, read_file, weights_of
from a2mamba.backbone.factory import check_name, create_model, list_models
from a2mamba.backbone.fusion import fuse_for_inference, is_fused
from a2mamba.backbone.graphed import GraphedModel, cpu_graph, cuda_graph
from a2mamba.backbone.options import BackboneOptions, ClassifierOptions, ModelOptions, RunOptions
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import register
from a2mamba.backbone.segman import SegMANEncoder
from a2mamba.backbone.variant import Variant
from a2mamba.backbone.weights import CheckpointError, Layout, from_released, to_released
from a2mamba.weights import WeightsUnavailableError

__all__ = [
    "A2Mamba",
    "Ablation",
    "BackboneOptions",
    "CheckpointError",
    "ClassifierOptions",
    "GraphedModel",
    "Layout",
    "LoadReport",
    "ModelOptions",
    "Pyramid",
    "RunOptions",
    "SegMANEncoder",
    "Variant",
    "WeightsUnavailableError",
    "check_name",
    "cpu_graph",
    "create_model",
    "cuda_graph",
    "from_released",
    "fuse_for_inference",
    "is_fused",
    "list_models",
    "load_checkpoint",
    "read_file",
    "register",
    "to_released",
    "weights_of",
]
