"""The configuration of a detection run."""

from __future__ import annotations

from dataclasses import dataclass

from a2mamba.data import DetectionData
from a2mamba.detection import DetectorConfig, detector_config
from a2mamba.engine import StepScheduleConfig
from a2mamba.tasks.run import SystemConfig, TrainingRun


@dataclass(frozen=True, kw_only=True)
class DetectorModelConfig(SystemConfig):
    """Which detector, and what of its backbone the run decides."""

    stored_size: tuple[int, int] = (224, 224)
    """height and width in pixels for which the bias of the backbone's global attention is stored"""
    grad_checkpointing: bool = False
    """recompute the backbone's activations in the backward: less memory, more time"""

    def __post_init__(self) -> None:
        detector_config(self.name)  # says which name is nearest


@dataclass(frozen=True, kw_only=True)
class DetectionRun(TrainingRun):
    """Everything that decides a detection run."""

    task = "detection"
    metric = "box_ap"

    model: DetectorModelConfig
    detector: DetectorConfig
    data: DetectionData
    schedule: StepScheduleConfig
