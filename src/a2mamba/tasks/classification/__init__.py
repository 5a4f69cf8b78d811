"""Image classification."""

from a2mamba.tasks.classification.evaluation import ClassificationEvaluation
from a2mamba.tasks.classification.losses import ClassificationLosses, class_scores
from a2mamba.tasks.classification.prediction import ClassificationPrediction
from a2mamba.tasks.classification.run import ClassificationRun, ModelConfig
from a2mamba.tasks.classification.task import ClassificationTask

__all__ = [
    "ClassificationEvaluation",
    "ClassificationLosses",
    "ClassificationPrediction",
    "ClassificationRun",
    "ClassificationTask",
    "ModelConfig",
    "class_scores",
]
