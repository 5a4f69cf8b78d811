"""Metrics; each accumulates exactly and yields (name, value). Knows no model."""

from a2mamba.evaluation.classification import ConfusionMatrix, TopK
from a2mamba.evaluation.metric import Metric

__all__ = ["ConfusionMatrix", "Metric", "TopK"]
