"""Measurements of a model."""

from a2mamba.analysis.flops import flops, parameters

__all__ = ["flops", "parameters"]
