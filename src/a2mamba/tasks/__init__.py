"""Tasks: what a batch means to a model."""

from a2mamba.tasks.classification import ClassificationTask, class_scores

__all__ = ["ClassificationTask", "class_scores"]
