"""Tasks: what a batch means to a model."""

from a2mamba.tasks.classification import ClassificationTask, class_scores
from a2mamba.tasks.detection import DetectionTask
from a2mamba.tasks.segmentation import SegmentationTask

__all__ = ["ClassificationTask", "DetectionTask", "SegmentationTask", "class_scores"]
