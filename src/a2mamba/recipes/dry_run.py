"""What a run would do and cost, found without its data: sizes, parameter groups, and a few real steps on noise."""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from a2mamba.engine import Hook, Schedule, Trainer, resolve_precision
from a2mamba.recipes.training import averaged
from a2mamba.tasks import BatchPlan, Parts, TrainingRun, task_of

_STEPS, _WARM_UP = 3, 1


@dataclass(frozen=True)
class Group:
    """One parameter group of the optimizer."""

    name: str
    tensors: int
    parameters: int
    weight_decay: float
    lr: float


@dataclass(frozen=True)
class Length:
    """How long a run is. samples: of the training split."""

    samples: int
    steps_per_epoch: int
    epochs: int

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps_per_epoch * self.epochs


@dataclass(frozen=True)
class Cost:
    """What a few optimizer steps on noise cost; loading, evaluating and saving are not in it.

    Args:
        samples: samples of one process in a measured step; fewer than the real step's on a CPU.
        seconds_per_step: for the real step's samples: the median, scaled in proportion to them.
        peak_memory: bytes; of the device's allocator, on a CPU the most that this process ever took. None where
            neither can be read.
    """

    samples: int
    seconds_per_step: float
    peak_memory: int | None


@dataclass(frozen=True)
class DryRun:
    """What `a2mamba train --dry-run` shows.

    Args:
        plan: how the total batch is shared out.
        length: of the run.
        groups: of the optimizer.
        cost: None where it was not measured.
        notes: what was assumed.
    """

    plan: BatchPlan
    length: Length
    groups: list[Group]
    cost: Cost | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """What was found, as plain types, for JSON."""
        return {
            "micro_batch": self.plan.micro_batch,
            "accumulate": self.plan.accumulate,
            "samples": self.length.samples,
            "steps_per_epoch": self.length.steps_per_epoch,
            "epochs": self.length.epochs,
            "steps": self.length.steps,
            "groups": [dataclasses.asdict(group) for group in self.groups],
            "seconds_per_step": None if self.cost is None else self.cost.seconds_per_step,
            "hours": None if self.cost is None else self.cost.seconds_per_step * self.length.steps / 3600,
            "peak_memory_mb": None
            if self.cost is None or self.cost.peak_memory is None
            else self.cost.peak_memory / 2**20,
            "notes": self.notes,
        }


def dry_run(run: TrainingRun, *, device: torch.device | str, measure: bool = True) -> DryRun:
    """Say what a run would do and cost, without its images where they are missing; nothing is written.

    Args:
        run: the resolved configuration.
        device: where it would be trained.
        measure: make a few steps on noise.

    Raises:
        ValueError: where numbers or weights do not fit; one line.
    """
    task = task_of(run)
    size = task.data_size(run)
    parts = task.build(run, size.classes, device=device)
    plan = task.plan(run, parts, size.classes, device=device)
    length = Length(size.samples, size.steps_per_epoch, run.schedule.total_epochs)
    groups = describe_groups(parts.optimizer)
    cost = _measure(run, parts, plan, size.classes, device=torch.device(device)) if measure else None
    return DryRun(plan, length, groups, cost, size.notes)


class _Seconds(Hook):
    """Keeps what every step took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def after_step(self, trainer: Trainer) -> None:
        """Note the step's time."""
        self.seconds.append(trainer.last_step["seconds"])


def _measure(
    run: TrainingRun, parts: Parts[Any], plan: BatchPlan, classes: Sequence[str], *, device: torch.device
) -> Cost:
    """Let the trainer make a few steps on one batch of noise, as if in the last epoch: every term of the loss is there.

    On a CPU a step of a large batch would take minutes: it is made of fewer samples, in one pass, and scaled up.
    """
    task = task_of(run)
    size, passes = plan
    most = task.samples_on_cpu(run)
    if device.type == "cpu" and size * passes > most:
        size, passes = min(size, most), 1
    steps, seconds = _WARM_UP + _STEPS, _Seconds()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(
        parts.losses,
        loader=[task.noise(run, classes, size)] * (steps * passes),
        optimizer=parts.optimizer,
        schedule=Schedule(parts.optimizer, run.schedule, steps_per_epoch=steps),
        epochs=run.schedule.total_epochs,
        device=device,
        precision=resolve_precision(run.precision, device),
        clip_grad_norm=run.optimizer.clip_grad_norm,
        accumulate=passes,
        ema=averaged(run, parts.losses),
        hooks=[seconds],
        seed=run.seed,
        channels_last=run.channels_last,
        sync_batch_norm=run.sync_batch_norm,
    )
    trainer.epoch = trainer.epochs - 1
    trainer.fit()
    real = plan.micro_batch * plan.accumulate
    return Cost(size * passes, statistics.median(seconds.seconds[_WARM_UP:]) * real / (size * passes), _peak(device))


def describe_groups(optimizer: torch.optim.Optimizer) -> list[Group]:
    """Return the parameter groups of an optimizer that `build_optimizer` made, with their peak rates."""
    return [
        Group(
            name=group["name"],
            tensors=len(group["params"]),
            parameters=sum(parameter.numel() for parameter in group["params"]),
            weight_decay=group["weight_decay"],
            lr=group["lr"] * group.get("lr_scale", 1.0),
        )
        for group in optimizer.param_groups
    ]


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "cpu" and sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return None


def total_parameters(groups: Sequence[Group]) -> int:
    """Trainable parameters of all groups."""
    return sum(group.parameters for group in groups)
