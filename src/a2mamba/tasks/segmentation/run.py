"""The configuration of a segmentation run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from a2mamba.data import SegmentationData
from a2mamba.engine import PolynomialScheduleConfig
from a2mamba.segmentation import TestMode, create_segmenter, list_segmenters
from a2mamba.tasks.run import SystemConfig, TrainingRun


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(SystemConfig):
    """Which segmentation network, and what of it the run decides."""

    width: int | None = None
    """channels of the decoder; none: those of the system"""

    def __post_init__(self) -> None:
        if self.name not in list_segmenters():
            create_segmenter(self.name, num_classes=1)  # says which name is nearest


@dataclass(frozen=True, kw_only=True)
class SegmentationRun(TrainingRun):
    """Everything that decides a segmentation run."""

    task = "segmentation"
    metric = "miou"

    model: SegmenterConfig
    data: SegmentationData
    schedule: PolynomialScheduleConfig
    test: TestMode
    """how images of the held-out split are looked at"""
    decoder_lr_scale: float = 1.0
    """factor of the learning rate of everything outside the backbone"""
    auxiliary_weight: float = 0.4
    """weight of the auxiliary head's loss; without effect for systems that have none"""
    average: Literal["all", "valid"] = "all"
    """mean of the loss over all pixels, ignored ones in the denominator, or over the labeled ones"""
    class_prior: bool = False
    """start the classifiers at the classes' shares of the training pixels instead of at zero, as the protocols do: for
    backbones that begin from little, and data of which one class has nearly everything"""
