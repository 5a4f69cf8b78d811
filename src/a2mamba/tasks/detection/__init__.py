"""Detection and instance segmentation."""

from a2mamba.tasks.detection.evaluation import DetectionEvaluation
from a2mamba.tasks.detection.losses import DetectionLosses
from a2mamba.tasks.detection.prediction import DetectionPrediction
from a2mamba.tasks.detection.run import DetectionRun, DetectorModelConfig
from a2mamba.tasks.detection.task import DetectionTask

__all__ = [
    "DetectionEvaluation",
    "DetectionLosses",
    "DetectionPrediction",
    "DetectionRun",
    "DetectionTask",
    "DetectorModelConfig",
]
