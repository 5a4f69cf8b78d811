"""Semantic segmentation."""

from a2mamba.tasks.segmentation.evaluation import SegmentationEvaluation
from a2mamba.tasks.segmentation.losses import SegmentationLosses
from a2mamba.tasks.segmentation.prediction import SegmentationPrediction
from a2mamba.tasks.segmentation.run import SegmentationRun, SegmenterConfig
from a2mamba.tasks.segmentation.task import SegmentationTask

__all__ = [
    "SegmentationEvaluation",
    "SegmentationLosses",
    "SegmentationPrediction",
    "SegmentationRun",
    "SegmentationTask",
    "SegmenterConfig",
]
