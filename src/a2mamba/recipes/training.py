"""What the runs of all tasks share: the part of their configuration, and the assembly of engine and hooks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    CsvLogger,
    Ema,
    EvaluationHook,
    Hook,
    Loader,
    OptimizerConfig,
    PrecisionName,
    ProgressHook,
    Schedule,
    SignalHook,
    Task,
    TensorBoardLogger,
    Trainer,
    replace_text,
    resolve_precision,
)
from a2mamba.engine.schedule import AnyScheduleConfig
from a2mamba.recipes.overrides import to_json


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What decides a run of any task, beside its model, its data and its schedule."""

    task: ClassVar[str]
    """classification, segmentation or detection; stored with every checkpoint"""
    metric: ClassVar[str]
    """the metric that chooses the best checkpoint, without the prefix of the averaged model"""

    optimizer: OptimizerConfig
    ema_decay: float | None = None
    """decay of the averaged model per step; none: no averaged model"""
    precision: PrecisionName = "auto"
    """auto: bfloat16 on GPUs that have it, float32 elsewhere"""
    channels_last: bool = True
    """memory format of model and images"""
    accumulate: int = 1
    """batches per optimizer step"""
    evaluate_every: int = 1
    """epochs between evaluations; the last epoch is always evaluated"""
    keep_checkpoints: int = 2
    """how many of the newest checkpoints stay, beside the best"""
    tensorboard: bool = False
    """log to TensorBoard too (needs the extra)"""
    seed: int = 42
    """of everything random in training"""

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best checkpoint: that of the averaged model, where there is one."""
        return self.metric if self.ema_decay is None else f"ema_{self.metric}"


class RunFile(Hook):
    """Writes run.json, the resolved run, when training begins or continues."""

    def __init__(self, output: Path, description: str) -> None:
        self.path = output / "run.json"
        self.description = description

    def before_fit(self, trainer: Trainer) -> None:
        """Write the file."""
        replace_text(self.path, self.description)


def fit(
    run: TrainingRun,
    output: Path,
    *,
    task: Task,
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    schedule: AnyScheduleConfig,
    measure: Callable[[nn.Module], Iterator[tuple[str, float]]],
    description: str,
    resume: bool,
    device: str,
    quiet: bool,
) -> Trainer:
    """Train, evaluate and save a run into a folder; return the trainer, with its history.

    Args:
        run: the resolved configuration.
        output: folder for checkpoints/, metrics.csv and run.json.
        task: model and losses.
        loader: training batches.
        optimizer: over the task's model.
        schedule: of the learning rate; it decides the number of epochs.
        measure: yields the results of a model, in eval mode, on the held-out data.
        description: what `describe` returned; stored with every checkpoint.
        resume: go on from the newest checkpoint in ``output``.
        device: "cpu", "cuda", "mps", ...
        quiet: no progress display.

    Raises:
        ValueError: where configuration, data or a checkpoint do not fit; one line.
        TrainingError: where training cannot go on, a non-finite loss above all.
        Interrupted: after a request to stop, when everything was saved.
    """
    manager = CheckpointManager(output / "checkpoints", keep_last=run.keep_checkpoints, best_metric=run.best_metric)
    hooks: list[Hook] = [EvaluationHook(measure, every=run.evaluate_every), CsvLogger(output / "metrics.csv")]
    if run.tensorboard:
        hooks.append(TensorBoardLogger(output / "tensorboard"))
    # The checkpoint hook refuses a folder of another run: only behind it may run.json be written.
    hooks += [ProgressHook(quiet=quiet), SignalHook(), CheckpointHook(manager), RunFile(output, description)]
    steps = -(-len(loader) // run.accumulate)
    trainer = Trainer(
        task,
        loader=loader,
        optimizer=optimizer,
        schedule=Schedule(optimizer, schedule, steps_per_epoch=steps),
        epochs=schedule.total_epochs,
        device=device,
        precision=resolve_precision(run.precision, device),
        clip_grad_norm=run.optimizer.clip_grad_norm,
        accumulate=run.accumulate,
        ema=None if run.ema_decay is None else Ema(task.model, decay=run.ema_decay),
        hooks=hooks,
        seed=run.seed,
        channels_last=run.channels_last,
        run=description,
    )
    if resume:
        newest = manager.latest()
        if newest is None:
            raise ValueError(f"nothing to resume in {output / 'checkpoints'}; leave out --resume to start a new run")
        trainer.load_state_dict(newest[1])
    trainer.fit()
    return trainer


def describe(run: TrainingRun, recipe: str, classes: Sequence[str]) -> str:
    """Return what a checkpoint says about its run, as JSON: task, recipe, configuration, class names."""
    config: dict[str, Any] = json.loads(to_json(run))
    return json.dumps({"task": run.task, "recipe": recipe, "config": config, "classes": list(classes)}, indent=2)
