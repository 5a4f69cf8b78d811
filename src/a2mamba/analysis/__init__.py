"""Measurements of a model."""

from a2mamba.analysis.counting import feature_maps, flops, parameters

__all__ = ["feature_maps", "flops", "parameters"]
