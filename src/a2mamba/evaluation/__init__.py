"""Metrics; each accumulates exactly and yields (name, value). Knows no model."""

from a2mamba.evaluation.agreement import ImageAgreement
from a2mamba.evaluation.classification import ConfusionMatrix, TopK
from a2mamba.evaluation.coco import ClassPrecision, CocoMetric
from a2mamba.evaluation.metric import Metric
from a2mamba.evaluation.segmentation import MeanIoU

__all__ = [
    "ClassPrecision",
    "CocoMetric",
    "ConfusionMatrix",
    "ImageAgreement",
    "MeanIoU",
    "Metric",
    "TopK",
]
