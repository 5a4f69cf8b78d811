"""What the runs of all tasks share: the part of their configuration, and the assembly of engine and hooks."""

from __future__ import annotations

import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    CsvLogger,
    EarlyStoppingHook,
    Ema,
    EvaluationHook,
    FaultPolicy,
    Hook,
    Loader,
    OptimizerConfig,
    PrecisionName,
    ProgressHook,
    QuarantineHook,
    Schedule,
    ScheduleError,
    SignalHook,
    Task,
    TensorBoardLogger,
    TimeLimitHook,
    Trainer,
    WandbLogger,
    is_main_process,
    resolve_precision,
    seeded_cpu,
)
from a2mamba.engine.schedule import AnyScheduleConfig
from a2mamba.files import replace_text
from a2mamba.recipes.overrides import to_json

Resume = Literal["never", "require", "auto"]
"""never: begin a new run; require: go on, and it is an error where there is nothing to; auto: go on, or begin"""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(ABC):
    """Which network, and the weights that it starts from."""

    name: str
    """one of `a2mamba models`"""
    checkpoint: Path | None = None
    """weights of the whole network to start from: a released, native or training checkpoint"""
    drop_path_rate: float = 0.0
    """stochastic depth of the backbone's last block; grows linearly from 0"""

    @abstractmethod
    def without_weights(self) -> NetworkConfig:
        """The same network from random weights, for those of a file to be put in."""


@dataclass(frozen=True, kw_only=True)
class SystemConfig(NetworkConfig):
    """Which network on a backbone, and the weights that it starts from."""

    backbone_checkpoint: Path | None = None
    """weights of the backbone to start from: those of a classifier, whose head is left out"""
    pretrained_backbone: bool = False
    """start from the released weights of the backbone, downloaded once"""

    def without_weights(self) -> SystemConfig:
        """The same network from random weights, for those of a file to be put in."""
        return replace(self, checkpoint=None, backbone_checkpoint=None, pretrained_backbone=False)


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

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best checkpoint: that of the averaged model, where there is one."""
        return self.metric if self.ema_decay is None else f"ema_{self.metric}"


@runtime_checkable
class LearnsFromAverage(Protocol):
    """A task with a loss against the averaged model, such as MESA."""

    def learn_from(self, average: nn.Module) -> None:
        """Take the averaged model; its weights follow every step."""
        ...


@runtime_checkable
class ReplacesUndecodable(Protocol):
    """A loader that can go on over samples that cannot be decoded, such as `data.BatchLoader`."""

    @property
    def samples(self) -> int:
        """Samples in the data set."""
        ...

    def replace_undecodable(self) -> dict[str, str]:
        """Replace them from now on, and return where their names will be."""
        ...


class RunFile(Hook):
    """Writes run.json, the resolved run, when training begins or continues."""

    def __init__(self, output: Path, description: str) -> None:
        self.path = output / "run.json"
        self.description = description

    def before_fit(self, trainer: Trainer) -> None:
        """Write the file."""
        if is_main_process():
            replace_text(self.path, self.description)


TaskT = TypeVar("TaskT", bound=Task)
ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class Parts(Generic[TaskT, ModelT]):
    """What learns: made of a run and the class names alone, without its images."""

    task: TaskT
    model: ModelT
    optimizer: torch.optim.Optimizer
    noise: Callable[[int], Any]
    """makes a training batch of so many random samples of the largest size: for measuring memory and time"""


class Prepared(NamedTuple):
    """A run with its images: what `fit` joins to the engine.

    Args:
        parts: task, model and optimizer.
        classes: names, in the order of their indices.
        loader: training batches.
        accumulate: batches of the loader per optimizer step, see ``plan_batches``.
        measure: yields the results of a model, in eval mode, on the held-out data.
    """

    parts: Parts[Any, Any]
    classes: Sequence[str]
    loader: Loader
    accumulate: int
    measure: Callable[[nn.Module], Iterator[tuple[str, float]]]


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Draw parameters from the run's seed alone, whatever was drawn before."""
    with seeded_cpu(seed):
        yield


def fit(
    run: TrainingRun,
    output: Path,
    prepared: Prepared,
    *,
    recipe: str,
    resume: Resume,
    max_minutes: float | None,
    device: str,
    quiet: bool,
) -> Trainer:
    """Join what was prepared to the engine and its hooks, and train: the second half of `assembly.train`."""
    task, optimizer, loader = prepared.parts.task, prepared.parts.optimizer, prepared.loader
    description = describe(run, recipe, prepared.classes)
    manager = CheckpointManager(output / "checkpoints", keep_last=run.keep_checkpoints, best_metric=run.best_metric)
    hooks: list[Hook] = [EvaluationHook(prepared.measure, every=run.evaluate_every)]
    if run.max_undecodable > 0 and isinstance(loader, ReplacesUndecodable):
        hooks.append(
            QuarantineHook(
                loader.replace_undecodable(),
                samples=loader.samples,
                largest_share=run.max_undecodable,
                path=output / "quarantine.json",
            )
        )
    hooks.append(CsvLogger(output / "metrics.csv"))
    if run.tensorboard:
        hooks.append(TensorBoardLogger(output / "tensorboard"))
    if run.wandb is not None:
        hooks.append(WandbLogger(run.wandb, output, json.loads(description)))
    if max_minutes is not None:
        hooks.append(TimeLimitHook(max_minutes))
    # The checkpoint hook refuses a folder of another run: only behind it may run.json be written.
    checkpoints = CheckpointHook(manager, every_minutes=run.checkpoint_minutes)
    hooks += [ProgressHook(quiet=quiet), SignalHook(), checkpoints, RunFile(output, description)]
    if run.patience is not None:
        hooks.append(EarlyStoppingHook(run.best_metric, patience=run.patience))
    steps = -(-len(loader) // prepared.accumulate)
    # Made of the start weights, so that the average begins where the model does.
    ema = None if run.ema_decay is None else Ema(task.model, decay=run.ema_decay)
    if ema is not None and isinstance(task, LearnsFromAverage):
        task.learn_from(ema.module)
    trainer = Trainer(
        task,
        loader=loader,
        optimizer=optimizer,
        schedule=Schedule(optimizer, run.schedule, steps_per_epoch=steps),
        epochs=run.schedule.total_epochs,
        device=device,
        precision=resolve_precision(run.precision, device),
        clip_grad_norm=run.optimizer.clip_grad_norm,
        accumulate=prepared.accumulate,
        ema=ema,
        hooks=hooks,
        seed=run.seed,
        channels_last=run.channels_last,
        run=description,
        sync_batch_norm=run.sync_batch_norm,
        faults=FaultPolicy(folder=output / "faults"),
    )
    if resume != "never":
        newest = manager.latest()
        if newest is not None:
            try:
                trainer.load_state_dict(newest[1], source=str(newest[0]))
            except ScheduleError as error:
                best = shlex.quote(str(newest[0].with_name("best.pt")))
                raise ScheduleError(
                    f"{error}; to train longer, begin a new run from the best checkpoint in another folder: replace "
                    f"--resume by model.checkpoint={best} --out FOLDER"
                ) from None
        elif resume == "require":
            raise ValueError(f"nothing to resume in {output / 'checkpoints'}; leave out --resume to start a new run")
    trainer.fit()
    return trainer


def describe(run: TrainingRun, recipe: str, classes: Sequence[str]) -> str:
    """Return what a checkpoint says about its run, as JSON: task, recipe, configuration, class names."""
    config: dict[str, Any] = json.loads(to_json(run))
    return json.dumps({"task": run.task, "recipe": recipe, "config": config, "classes": list(classes)}, indent=2)
