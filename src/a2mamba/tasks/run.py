"""What decides a run of any task, beside its network, its data and its schedule, which each task has its own of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from a2mamba.backbone import RunOptions
from a2mamba.engine import OptimizerConfig, PrecisionName
from a2mamba.engine.schedule import AnyScheduleConfig

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(RunOptions, ABC):
    """Which network, and the weights that it starts from."""

    name: str
    """one of `a2mamba models`"""
    checkpoint: Path | None = None
    """weights of the whole network to start from: a released, native or training checkpoint"""

    @abstractmethod
    def without_weights(self) -> Self:
        """The same network from random weights, for those of a file to be put in."""


@dataclass(frozen=True, kw_only=True)
class SystemConfig(NetworkConfig):
    """Which network on a backbone, and the weights that it starts from."""

    backbone_checkpoint: Path | None = None
    """weights of the backbone to start from: those of a classifier, whose head is left out"""
    pretrained_backbone: bool = False
    """start from the released weights of the backbone, downloaded once"""

    def without_weights(self) -> Self:
        """The same network from random weights, for those of a file to be put in."""
        return replace(self, checkpoint=None, backbone_checkpoint=None, pretrained_backbone=False)


class TrainingData(Protocol):
    """What every run's data has."""

    @property
    def batch_size(self) -> int:
        """Training images in one optimizer step: the total over all processes and forward passes."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What decides a run of any task, beside its data and its schedule."""

    task: ClassVar[str]
    """classification, segmentation or detection; stored with every checkpoint"""
    metric: ClassVar[str]
    """the metric that chooses the best checkpoint, without the prefix of the averaged model"""

    model: NetworkConfig
    optimizer: OptimizerConfig
    schedule: AnyScheduleConfig
    ema_decay: float | None = None
    """decay of the averaged model per step; none: no averaged model"""
    precision: PrecisionName = "auto"
    """auto: bfloat16 on GPUs that have it, float32 elsewhere"""
    channels_last: bool = True
    """memory format of model and images"""
    micro_batch: int | None = None
    """largest batch of one forward pass on one process; none: worked out from the device's memory"""
    evaluate_every: int = 1
    """epochs between evaluations; the last epoch is always evaluated"""
    patience: int | None = None
    """epochs without a better metric after which the run ends early; none: it never does"""
    keep_checkpoints: int = 2
    """how many of the newest checkpoints stay, beside the best"""
    checkpoint_minutes: float | None = 30.0
    """time after which a checkpoint is written inside of an epoch; none: after epochs only"""
    sync_batch_norm: bool = True
    """with several processes: batch statistics over the samples of all"""
    max_undecodable: float = 0.05
    """share of the training samples that may be undecodable: they are replaced, and named in quarantine.json"""
    tensorboard: bool = False
    """log to TensorBoard too (needs the extra)"""
    wandb: str | None = None
    """project of Weights & Biases to log to (needs the wandb package); none: do not"""
    seed: int = 42
    """of everything random in training"""
    data: TrainingData

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best checkpoint: that of the averaged model, where there is one."""
        return self.metric if self.ema_decay is None else f"ema_{self.metric}"
