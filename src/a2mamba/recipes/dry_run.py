"""What a run would do and cost, found without training: sizes, parameter groups, and a few real steps on noise."""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from a2mamba.engine import Progress, Task, kept_rng, move_to, resolve_precision, world_size
from a2mamba.recipes.batches import BatchPlan, largest_micro_batch, plan_batches
from a2mamba.recipes.training import Parts, TrainingRun

_STEPS, _WARM_UP = 3, 1


@dataclass(frozen=True)
class Group:
    """One parameter group of the optimizer."""

    name: str
    tensors: int
    parameters: int
    weight_decay: float
    lr: float


class DataSize(NamedTuple):
    """How much there is to train on; notes: what was assumed where the images are missing."""

    classes: Sequence[str]
    samples: int
    steps_per_epoch: int
    notes: list[str]


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
class Rehearsal:
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
        """The rehearsal as plain types, for JSON."""
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


def plan_for_device(run: TrainingRun, parts: Parts[Any, Any], *, device: torch.device | str, total: int) -> BatchPlan:
    """Share the total batch out over the processes of this run, by `micro_batch` or by what the device has room for.

    Args:
        run: micro_batch, precision, memory format, averaged model.
        parts: on the device; left as they were.
        device: where.
        total: samples of one optimizer step.

    Raises:
        ValueError: it cannot be shared out; one line.
    """
    limit = run.micro_batch
    if limit is None and torch.device(device).type == "cuda":
        share = plan_batches(total, world_size=world_size()).micro_batch
        attempt = partial(_attempt, run, parts.task, parts.noise, torch.device(device))
        limit = largest_micro_batch(share, attempt, device=device, reserve=_training_bytes(run, parts.model))
    return plan_batches(total, world_size=world_size(), micro_batch=limit)


def _attempt(run: TrainingRun, task: Task, batch: Callable[[int], Any], device: torch.device, size: int) -> None:
    """One forward and backward pass, which leaves the model as it was."""
    model = task.model
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    memory_format = torch.channels_last if run.channels_last else torch.preserve_format
    try:
        with kept_rng(device):
            model.train()
            if size == 1:
                # One image has no batch statistics; synchronized norms get them from other processes in training.
                for module in model.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
            with resolve_precision(run.precision, device).autocast():
                losses = task.losses(
                    move_to(batch(size), device, memory_format), Progress(epoch=0, step=0, steps_per_epoch=1, epochs=1)
                )
                loss = torch.stack([value.float() for value in losses.values()]).sum()
            loss.backward()
    finally:
        model.zero_grad(set_to_none=True)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])


def _training_bytes(run: TrainingRun, model: nn.Module) -> int:
    """What training holds beside a pass: at most two moments of the optimizer, and the averaged model."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return size * (2 if run.ema_decay is None else 3)


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


def measure_cost(
    run: TrainingRun,
    parts: Parts[Any, Any],
    plan: BatchPlan,
    *,
    device: torch.device | str,
    epochs: int,
    samples_on_cpu: int,
) -> Cost:
    """Make a few optimizer steps on noise. The parts are changed: use them for nothing else.

    On a CPU a step of a large batch would take minutes: it is made of fewer samples, in one pass, and scaled up.

    Args:
        run: precision, memory format, clipping.
        parts: on the device.
        plan: how large a step is.
        device: where.
        epochs: of the run; the steps are made as if in the last one, when every term of the loss is there.
        samples_on_cpu: the most that a step is made of on a CPU.
    """
    device, task, optimizer = torch.device(device), parts.task, parts.optimizer
    size, passes = plan
    if device.type == "cpu" and size * passes > samples_on_cpu:
        size, passes = min(size, samples_on_cpu), 1
    precision = resolve_precision(run.precision, device)
    scaler = precision.grad_scaler()
    memory_format = torch.channels_last if run.channels_last else torch.preserve_format
    task.model.to(device, memory_format=memory_format)
    task.model.train()
    progress = Progress(epoch=max(epochs - 1, 0), step=0, steps_per_epoch=1, epochs=epochs)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = []
    for step in range(_WARM_UP + _STEPS):
        batches = [parts.noise(size) for _ in range(passes)]
        _wait(device)
        began = time.perf_counter()
        for one in batches:
            with precision.autocast():
                losses = task.losses(move_to(one, device, memory_format), progress)
                loss = torch.stack([value.float() for value in losses.values()]).sum() / passes
            scaler.scale(loss).backward()
        if run.optimizer.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(task.model.parameters(), run.optimizer.clip_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        _wait(device)
        if step >= _WARM_UP:
            seconds.append(time.perf_counter() - began)
    real = plan.micro_batch * plan.accumulate
    return Cost(size * passes, statistics.median(seconds) * real / (size * passes), _peak(device))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


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
