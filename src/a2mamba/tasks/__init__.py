"""Classification, segmentation and detection, each one object, from a run's configuration to predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from a2mamba.backbone.registry import REGISTERED
from a2mamba.near_names import did_you_mean
from a2mamba.tasks.batches import BatchPlan
from a2mamba.tasks.classification import (
    ClassificationLosses,
    ClassificationPrediction,
    ClassificationRun,
    ClassificationTask,
    ModelConfig,
)
from a2mamba.tasks.detection import (
    DetectionLosses,
    DetectionPrediction,
    DetectionRun,
    DetectionTask,
    DetectorModelConfig,
)
from a2mamba.tasks.evaluation import Evaluation
from a2mamba.tasks.prediction import Prediction, PredictionOptions, SourceImage
from a2mamba.tasks.run import NetworkConfig, SystemConfig, TrainingRun
from a2mamba.tasks.segmentation import (
    SegmentationLosses,
    SegmentationPrediction,
    SegmentationRun,
    SegmentationTask,
    SegmenterConfig,
)
from a2mamba.tasks.task import DataSize, NetworkInput, Parts, Prepared, Task
from a2mamba.tasks.view import View

AnyRun = ClassificationRun | SegmentationRun | DetectionRun

# Any: which run and which network a task takes is known to those alone who asked for it by its own type.
TASKS: dict[str, Task[Any, Any]] = {
    task.name: task for task in (ClassificationTask(), SegmentationTask(), DetectionTask())
}
"""The tasks by their names. A new one is a class and its place here."""


def task_of(run: TrainingRun) -> Task[Any, Any]:
    """Return the task of a run."""
    return TASKS[run.task]


def task_of_network(name: str) -> Task[Any, Any]:
    """Return the task of a network's name; ValueError for an unknown one, naming the nearest."""
    for task in TASKS.values():
        if name in task.networks():
            return task
    if name in REGISTERED:  # a backbone that is not listed, such as those of the ablations
        return TASKS[ClassificationTask.name]
    known = [*(known for task in TASKS.values() for known in task.networks()), *REGISTERED]
    raise ValueError(f"unknown model {name!r}; {did_you_mean(name, known, otherwise='see: a2mamba models')}")


def refuse_options(
    chosen: Iterable[str], task: Task[Any, Any], taken: Callable[[Task[Any, Any]], frozenset[str]]
) -> None:
    """Raise ValueError for an option that has no effect on a task, naming the tasks that it is for.

    Args:
        chosen: names of options.
        task: which task they are to be used for.
        taken: the options that a task takes.
    """
    for option in chosen:
        if option not in taken(task):
            owners = " and ".join(other.name for other in TASKS.values() if option in taken(other))
            raise ValueError(f"the option {option} is for {owners}; this is {task.name}")


__all__ = [
    "TASKS",
    "AnyRun",
    "BatchPlan",
    "ClassificationLosses",
    "ClassificationPrediction",
    "ClassificationRun",
    "ClassificationTask",
    "DataSize",
    "DetectionLosses",
    "DetectionPrediction",
    "DetectionRun",
    "DetectionTask",
    "DetectorModelConfig",
    "Evaluation",
    "ModelConfig",
    "NetworkConfig",
    "NetworkInput",
    "Parts",
    "Prediction",
    "PredictionOptions",
    "Prepared",
    "SegmentationLosses",
    "SegmentationPrediction",
    "SegmentationRun",
    "SegmentationTask",
    "SegmenterConfig",
    "SourceImage",
    "SystemConfig",
    "Task",
    "TrainingRun",
    "View",
    "refuse_options",
    "task_of",
    "task_of_network",
]
