"""The configuration of a segmentation run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from a2mamba.backbone import check_name
from a2mamba.data import SegmentationData
from a2mamba.engine import PolynomialScheduleConfig
from a2mamba.segmentation import TestMode, check_segmenter
from a2mamba.tasks.run import SystemConfig, TrainingRun


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(SystemConfig):
    """Which segmentation network, and what of it the run decides."""

    backbone: str | None = None
    """another backbone than the network's own"""
    width: int | None = None
    """channels of the decoder; none: those of the system"""
    stored_size: tuple[int, int] | None = None
    """height and width in pixels for which the bias of the backbone's global attention is stored; none: the crop's"""
    output_norms: bool = False
    """UperNet: normalize the channels of each of the backbone's maps"""

    def __post_init__(self) -> None:
        check_segmenter(self.name)
        if self.backbone is not None:
            check_name(self.backbone)


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
    """factor of the learning rate of the decoder and the auxiliary head"""
    auxiliary_weight: float = 0.4
    """weight of the auxiliary head's loss; without effect for systems that have none"""
    average: Literal["all", "valid"] = "all"
    """mean of the loss over all pixels, ignored ones in the denominator, or over the labeled ones"""
    class_prior: bool = False
    """start the classifiers at the classes' shares of the training pixels instead of at zero, as the protocols do: for
    backbones that begin from little, and data of which one class has nearly everything"""
