"""The configuration of a classification run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from a2mamba.backbone import check_name
from a2mamba.data import ClassificationData
from a2mamba.engine import ScheduleConfig
from a2mamba.tasks.run import NetworkConfig, TrainingRun

if TYPE_CHECKING:
    from typing_extensions import Self

_STAGES = 4


@dataclass(frozen=True, kw_only=True)
class ModelConfig(NetworkConfig):
    """Which backbone, and what of it the run decides."""

    pretrained: bool = False
    """start from the released weights, downloaded once; `checkpoint` comes before it"""
    drop_rate: float = 0.0
    """dropout before the classifier"""
    checkpointed_blocks: tuple[int, ...] | None = None
    """first blocks of each stage whose activations are computed twice, to save memory; none: of no stage"""

    def __post_init__(self) -> None:
        check_name(self.name)
        blocks = self.checkpointed_blocks
        if blocks is not None and (len(blocks) != _STAGES or min(blocks) < 0):
            raise ValueError(
                f"model.checkpointed_blocks={blocks}: expected {_STAGES} numbers of 0 or more, one a stage"
            )

    def without_weights(self) -> Self:
        """The same backbone from random weights, for those of a file to be put in."""
        return replace(self, checkpoint=None, pretrained=False)


@dataclass(frozen=True, kw_only=True)
class ClassificationRun(TrainingRun):
    """Everything that decides a classification run."""

    task = "classification"
    metric = "top1"

    model: ModelConfig
    data: ClassificationData
    schedule: ScheduleConfig
    label_smoothing: float = 0.1
    """share of the target that is spread over all classes"""
    mesa_ratio: float = 0.0
    """weight of the cross-entropy against the averaged model's prediction (MESA); 0: none"""
    mesa_start: int = 75
    """epochs that are completed before MESA begins"""
    original_weight_decay: bool = False
    """decay what the authors' optimizer decayed (A_log among it), not what they marked"""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing}: expected 0 to less than 1")
        if self.mesa_ratio < 0 or self.mesa_start < 0:
            raise ValueError(f"mesa_ratio={self.mesa_ratio}, mesa_start={self.mesa_start}: neither may be negative")
        if self.mesa_ratio > 0 and self.ema_decay is None:
            raise ValueError(
                f"mesa_ratio={self.mesa_ratio}: MESA learns from the averaged model; set ema_decay too, or mesa_ratio=0"
            )
