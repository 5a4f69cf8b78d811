"""Measurements of a model."""

from a2mamba.analysis.flops import feature_maps, flops, parameters

__all__ = ["feature_maps", "flops", "parameters"]
