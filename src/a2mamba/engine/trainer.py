"""The training loop: one for classification, segmentation and detection. It knows no model and no data set.

Read `Trainer.fit`, `_run_epoch` and `_step`, in this order; then what is done about a step that is not finite, the
requests of hooks, and the state that checkpoints hold.
"""

from __future__ import annotations

import json
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from a2mamba.engine.checkpoint import FORMAT, versions
from a2mamba.engine.distributed import (
    average_batch_norm,
    defer_gradient_sync,
    distribute,
    is_main_process,
    lost_process,
    rank,
    sum_over_processes,
    unwrap,
    world_size,
)
from a2mamba.engine.ema import Ema
from a2mamba.engine.errors import INTERRUPTED, Interrupted, ScheduleError, TrainingError
from a2mamba.engine.fault_report import FailedStep, FaultReporter
from a2mamba.engine.faults import FaultCounts, FaultPolicy, StepStart
from a2mamba.engine.loading import Loader, begin_at, pin_memory
from a2mamba.engine.precision import Precision
from a2mamba.engine.requests import Requests
from a2mamba.engine.rng import rng_state, seed_step, set_rng_state
from a2mamba.engine.schedule import Schedule
from a2mamba.engine.state import check_position, check_state, load_optimizer, optimizer_template
from a2mamba.engine.task import Progress, TrainingTask
from a2mamba.engine.totals import EpochTotals
from a2mamba.engine.tree import copy_to_cpu, move_to

_log = logging.getLogger(__name__)
_SMALLEST_SCALE = 1.0  # of float16 gradients; below it an overflow is no longer one of the scaler's making


class Hook:
    """Does nothing at each of its moments; subclasses override those that they need.

    In a distributed run every process calls its hooks; those that write do so on the first process only.
    """

    def before_fit(self, trainer: Trainer) -> None:
        """Once, when training begins or continues."""

    def after_step(self, trainer: Trainer) -> None:
        """After every optimizer step; `trainer.last_step` has its numbers."""

    def after_last_step(self, trainer: Trainer) -> None:
        """After the steps of an epoch, before anything else is done with it; `trainer.history[-1]` is its row."""

    def after_epoch(self, trainer: Trainer) -> None:
        """After every completed epoch; `trainer.add_metrics` adds to its row. Comes again where it did not end."""

    def after_fit(self, trainer: Trainer) -> None:
        """Once, when training ends or a stop was requested; not when it failed."""

    def close(self, trainer: Trainer) -> None:
        """Always, last: releases what `before_fit` took, also when that or training failed."""


class Trainer:
    """Trains `task.model` for `epochs` epochs.

    task           losses, batch sizes and sample names (see `TrainingTask`)
    loader         the training batches; the optimizer steps once per `accumulate` of them
    optimizer      over the parameters of `task.model`
    schedule       sets the learning rate before every step
    epochs         epochs to complete, counted from the beginning of the run, whether it was resumed or not
    device         where the model and the averaged model are moved to, now, and each batch when it is used
    precision      see `resolve_precision`
    clip_grad_norm largest global L2 norm of the gradient, None for no clipping
    seed           of everything random in training; see below
    accumulate     batches per optimizer step; the gradient is that of the mean over all their samples, also where the
                   batches differ in size and where an epoch's last group is not full
    ema            updated after every step
    hooks          called in this order; what a hook adds to the epoch's row is seen by those after it
    channels_last  memory format of the model and of 4-D inputs
    run            the resolved run as JSON, stored with every checkpoint
    sync_batch_norm  batch statistics over all processes (the paper's scripts); otherwise over each one's own samples
    faults         tolerance for non-finite steps, see `FaultPolicy`

    Several processes: construct it in all of them, inside `process_group`, with the same model and each one's loader.
    Losses and counts are those of all processes together. A loss is a mean over the samples of one process, so every
    process needs the same number of samples in a step, as the samplers of `data` give it.

    Randomness: before the batches of a step are drawn, all global generators are seeded from (seed, step, rank). Unlike
    generator states that are carried along, this lets nothing between steps (evaluation, a hook, another number of
    devices) change training, and a run resumed at any step goes on bit for bit without the history of its generators.

    Public state, for hooks: `epoch` (completed), `step_in_epoch`, `step` (over the run), `steps_per_epoch`, `last_step`
    (the numbers of the step just made: loss, its terms, grad_norm, lr, images, seconds), `history` (one row per
    completed epoch; losses are means over the epoch's samples), `metric_names` (what hooks have added to rows), `best`
    (metric, value and epoch), `stop_reason`, `fault_counts`, `save_requested` (see `request_save`), `last_good` (what
    gives the state to go back to after non-finite steps: the state at the beginning of `fit`, until a hook that saves
    checkpoints puts the newest one in its place).
    """

    def __init__(
        self,
        task: TrainingTask,
        *,
        loader: Loader,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        epochs: int,
        device: torch.device | str,
        precision: Precision,
        clip_grad_norm: float | None,
        seed: int,
        accumulate: int = 1,
        ema: Ema | None = None,
        hooks: Sequence[Hook] = (),
        channels_last: bool = False,
        run: str = "{}",
        sync_batch_norm: bool = True,
        faults: FaultPolicy | None = None,
    ) -> None:
        if accumulate < 1:
            raise ValueError(f"accumulate is {accumulate}; it must be at least 1")
        self.task = task
        self.loader = loader
        self.optimizer = optimizer
        self.schedule = schedule
        self.epochs = epochs
        self.device = torch.device(device)
        self.precision = precision
        self.clip_grad_norm = clip_grad_norm
        self.seed = seed
        self.accumulate = accumulate
        self.ema = ema
        self.hooks = tuple(hooks)
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        self.run = run
        self.fault_policy = faults if faults is not None else FaultPolicy()
        self.fault_counts = FaultCounts()
        for model in [task.model] + ([ema.module] if ema is not None else []):
            # In place: the optimizer goes on holding the same parameters. (mypy sees only some of the overloads.)
            model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]  # not in torch's stub
        task.model = distribute(task.model, sync_batch_norm=sync_batch_norm, device=self.device)
        if self.device.type == "cuda":
            pin_memory(loader)
        self._average_norms = world_size() > 1 and not sync_batch_norm

        self.epoch = 0
        self.step_in_epoch = 0
        self.step = 0
        self.last_step: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.metric_names: set[str] = set()
        self.best: dict[str, Any] | None = None
        self.last_good: Callable[[], dict[str, Any]] | None = None
        self._requests = Requests()
        self._start: StepStart | None = None
        self._reporter = FaultReporter(
            task,
            self.fault_policy,
            device=self.device,
            precision=precision,
            memory_format=self.memory_format,
            seed=seed,
        )
        self._scaler = precision.grad_scaler()
        self._totals = EpochTotals()
        self._samples_in_epoch = 0  # of this process: the position in its sampler
        self._epoch_open = False  # its steps are made, and hooks' after_epoch is still to come
        begin_at(loader, epoch=0, samples=0)  # a sampler that was left inside an epoch may shorten the loader
        self._batches_per_epoch = len(loader)
        if self._batches_per_epoch == 0:
            raise ValueError("the training loader has no batch: are there fewer samples than one batch holds?")
        self.steps_per_epoch = math.ceil(self._batches_per_epoch / accumulate)

    def fit(self) -> None:
        """Trains from the current position to the end, or until a stop is requested.

        Raises TrainingError when training cannot go on (another process of the run being lost, too), and Interrupted,
        after the hooks have saved, when a hook passed on a request from outside.
        """
        try:
            with ExitStack() as cleanup:
                if world_size() > 1:
                    # Of depthwise kernels, whose axis of length 1 has a stride that means nothing.
                    cleanup.enter_context(warnings.catch_warnings())
                    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
                for hook in self.hooks:
                    cleanup.callback(hook.close, self)
                for hook in self.hooks:
                    hook.before_fit(self)
                self._start = StepStart(unwrap(self.task.model), self.device)
                if self.last_good is None:
                    at_begin = copy_to_cpu(self.state_dict())
                    self.last_good = lambda: at_begin
                if self.epoch >= self.epochs and not self._epoch_open and is_main_process():
                    _log.warning("the run is finished: all of its %d epochs are completed", self.epochs)
                while self.stop_reason is None and (self._epoch_open or self.epoch < self.epochs):
                    if not self._epoch_open:
                        self._run_epoch()
                    else:
                        self._close_epoch()
                for hook in self.hooks:
                    hook.after_fit(self)
        except RuntimeError as error:
            if not lost_process(error):
                raise
            raise TrainingError(
                f"another process of this run has ended (process {rank()} of {world_size()} lost it at step "
                f"{self.step}); resume from the newest checkpoint"
            ) from error
        if self._requests.status is not None:
            raise Interrupted(self.stop_reason or "", status=self._requests.status)

    def _run_epoch(self) -> None:
        self.task.model.train()
        started = time.perf_counter()
        for group in self._groups():
            if not self._step(group):
                return  # the position is another one
            self.last_step["seconds"] = time.perf_counter() - started
            self._totals.seconds += self.last_step["seconds"]
            for hook in self.hooks:
                hook.after_step(self)
            if self.stop_reason is not None:
                return
            started = time.perf_counter()
        self._add_row()
        for hook in self.hooks:
            hook.after_last_step(self)

    def _close_epoch(self) -> None:
        self._epoch_open = False
        for hook in self.hooks:
            hook.after_epoch(self)
        if world_size() > 1:
            self._requests.hear(sum_over_processes(self._requests.say()))

    def _step(self, group: list[Any]) -> bool:
        """One optimizer step on the micro-batches of `group`; False where the run went back to an earlier position."""
        self.schedule.apply(self.epoch, self.step_in_epoch)
        for group_of_parameters in self.optimizer.param_groups:
            group_of_parameters["lr"] *= self.fault_policy.factor**self.fault_counts.recoveries
        progress = Progress(self.epoch, self.step, self.steps_per_epoch, self.epochs)
        sizes = [self.task.batch_size(batch) for batch in group]
        assert self._start is not None
        self._start.remember()
        terms: list[dict[str, Tensor]] = []
        for index, (batch, size) in enumerate(zip(group, sizes, strict=True)):
            batch = move_to(batch, self.device, self.memory_format)
            with defer_gradient_sync(self.task.model, defer=index + 1 < len(group)):
                with self.precision.autocast():
                    losses = self.task.losses(batch, progress)
                    loss = torch.stack([value.float() for value in losses.values()]).sum()
                self._scaler.scale(loss * (size / sum(sizes))).backward()
            terms.append({name: value.detach() for name, value in losses.items()})
        self._scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        values, norm_value = _to_floats(terms, norm)
        means, count = self._over_processes(values, sizes)
        if not self._is_finite(means, norm_value):
            self._scaler.update()
            failed = FailedStep(group, progress, values, norm_value)
            return self._leave_out(failed, means, sizes, count)
        self.fault_counts.in_a_row = 0
        if self.clip_grad_norm is not None:  # only now: it would spread what is not finite over all gradients
            clip_grads_with_norm_(parameters, self.clip_grad_norm, norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self._average_norms:
            average_batch_norm(self.task.model)
        if self.ema is not None:
            self.ema.update(self.task.model)
        self._totals.add(means, count)
        self._advance(means, norm_value, sizes, count)
        return True

    def _groups(self) -> Iterator[list[Any]]:
        """The micro-batches of each remaining step of this epoch, the generators seeded for the step."""
        begin = self.step_in_epoch
        epoch_start = self.step - begin
        drawn = begin_at(self.loader, epoch=self.epoch, samples=self._samples_in_epoch)
        seed_step(self.seed, epoch_start, rank())  # the loader may draw its workers' seed
        batches = iter(self.loader)
        for step in range(begin if drawn else 0, self.steps_per_epoch):
            seed_step(self.seed, epoch_start + step, rank())
            wanted = min(self.accumulate, self._batches_per_epoch - step * self.accumulate)
            group = list(islice(batches, wanted))
            if len(group) < wanted:
                raise TrainingError(
                    f"the loader ended after {step} of the {self.steps_per_epoch} steps of epoch {self.epoch + 1}"
                )
            if step >= begin:
                yield group

    def _over_processes(self, values: list[dict[str, float]], sizes: list[int]) -> tuple[dict[str, float], int]:
        """The step's mean of each loss term and of their sum, over all processes, and the number of its samples.

        The same exchange carries the requests of `request_stop` and `request_save`.
        """
        sums = {name: sum(terms[name] * size for terms, size in zip(values, sizes, strict=True)) for name in values[0]}
        said = self._requests.say()
        numbers = sum_over_processes([*said, float(sum(sizes)), *sums.values()])
        self._requests.hear(numbers[: len(said)])
        count, *totals = numbers[len(said) :]
        means = {f"loss_{name}": total / count for name, total in zip(sums, totals, strict=True)}
        return {"loss": sum(means.values())} | means, round(count)

    def _is_finite(self, means: dict[str, float], norm: float) -> bool:
        """The same answer in every process: a value that is not finite in one makes the mean over all so."""
        if not all(map(math.isfinite, means.values())):
            return False
        # In float16 a gradient may overflow: the scaler then leaves out the step and lowers its scale.
        scaled = self._scaler.is_enabled() and self._scaler.get_scale() >= _SMALLEST_SCALE
        return math.isfinite(norm) or scaled

    def _leave_out(self, failed: FailedStep, means: dict[str, float], sizes: list[int], count: int) -> bool:
        """Leaves out a step that is not finite and reports it; after several in a row goes back, then gives up.

        Returns False where the run went back to an earlier position. Every process comes here for the same step.
        """
        assert self._start is not None
        report, samples = self._reporter.report(failed, self._start.restore)
        self._start.restore()
        self.optimizer.zero_grad(set_to_none=True)
        counts, policy = self.fault_counts, self.fault_policy
        counts.skipped += 1
        counts.in_a_row += 1
        if counts.in_a_row < policy.patience:
            if is_main_process():
                _log.warning("%s", report)
            self._advance(means, failed.grad_norm, sizes, count)
            return True
        if counts.recoveries >= policy.recoveries:
            again = f", after {counts.recoveries} restarts from the last good state" if counts.recoveries else ""
            raise TrainingError(f"{counts.in_a_row} steps in a row were not finite{again}; {report}", samples=samples)
        assert self.last_good is not None
        state = self.last_good()
        self.load_state_dict(state)
        self.fault_counts = FaultCounts(skipped=counts.skipped, recoveries=counts.recoveries + 1)
        if is_main_process():
            _log.warning(
                "%s; that is %d in a row: going back to step %d with %g times the learning rate",
                report,
                counts.in_a_row,
                self.step,
                policy.factor**self.fault_counts.recoveries,
            )
        return False

    def _advance(self, means: dict[str, float], norm: float, sizes: list[int], count: int) -> None:
        """Moves the position by one step."""
        self.last_step = means | {"grad_norm": norm, "lr": self._lr(), "images": float(count)}
        self.step += 1
        self.step_in_epoch += 1
        self._samples_in_epoch += sum(sizes)
        self._totals.samples += count

    def _add_row(self) -> None:
        """Completes the epoch, and leaves it open for the hooks."""
        self.epoch += 1
        row = {"epoch": float(self.epoch), "step": float(self.step), "lr": self._lr()}
        row |= self._totals.row()
        if self.fault_counts.skipped:
            row["skipped_steps"] = float(self.fault_counts.skipped)
        self.history.append(row)
        self._epoch_open = True
        self.step_in_epoch = 0
        self._samples_in_epoch = 0
        self._totals = EpochTotals()

    def _lr(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def add_metrics(self, metrics: dict[str, float]) -> None:
        """Adds values to the row of the epoch just completed (for `after_epoch`), and their names to `metric_names`."""
        self.history[-1].update(metrics)
        self.metric_names.update(metrics)

    @property
    def stop_reason(self) -> str | None:
        """Why training ends, None where it goes on."""
        return self._requests.stop_reason

    @property
    def save_requested(self) -> bool:
        """Whether a checkpoint is to be saved after this step, see `request_save`."""
        return self._requests.save

    def request_stop(self, reason: str, *, interrupt: bool = False, status: int = INTERRUPTED) -> None:
        """Ends training after the current step (from `after_step`) or epoch; hooks' `after_fit` still runs.

        With `interrupt`, `fit` then raises Interrupted with `status`: the run did not end by its own rules. Where there
        are several processes, one request ends all: after the next step, when the others have heard of it.
        """
        self._requests.ask_to_stop(reason, status if interrupt else None)

    def request_save(self, wanted: bool = True) -> None:
        """Asks for a checkpoint soon: `save_requested` is set for `after_step`, at the same step in every process.

        False withdraws what was not yet granted: a checkpoint was written for another reason.
        """
        self._requests.ask_to_save(wanted)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint holds, see `checkpoint`."""
        return {
            "format": FORMAT,
            "model": dict(unwrap(self.task.model).state_dict()),
            "ema": None if self.ema is None else dict(self.ema.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "rng": rng_state(self.device),
            "progress": {
                "epoch": self.epoch,
                "step_in_epoch": self.step_in_epoch,
                "step": self.step,
                "samples_in_epoch": self._samples_in_epoch * world_size(),
                "steps_per_epoch": self.steps_per_epoch,
                "world_size": world_size(),
                "sums": dict(self._totals.sums),
                "counted": self._totals.counted,
                "history": json.dumps(self.history),
                "epoch_open": self._epoch_open,
            },
            "faults": self.fault_counts.state_dict(),
            "best": None if self.best is None else dict(self.best),
            "run": self.run,
            "versions": versions(),
        }

    def load_state_dict(self, state: dict[str, Any], *, source: str = "the checkpoint") -> None:
        """Continues where `state` was taken. All of it is checked before any of it is used.

        Raises ValueError, one line that begins with `source` (ScheduleError for another learning-rate curve), where the
        state is of another run, or damaged.
        """
        if (state["ema"] is None) != (self.ema is None):
            has, wants = ("no", "has one") if state["ema"] is None else ("an", "has none")
            raise ValueError(f"{source} has {has} averaged (EMA) model, and this run {wants}")
        progress: dict[str, Any] = {"epoch_open": False}  # which older files do not have
        if isinstance(state["progress"], dict):
            progress |= state["progress"]
        own = self.state_dict() | {"optimizer": optimizer_template(self.optimizer)}
        check_state(state | {"progress": progress}, own, source=source)
        check_position(progress, steps_per_epoch=self.steps_per_epoch, processes=world_size(), source=source)
        try:
            self.schedule.load_state_dict(state["schedule"])
        except ScheduleError as error:
            raise ScheduleError(f"{source}: {error}") from None
        unwrap(self.task.model).load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"] and self._scaler.is_enabled():  # the precision may be changed on resuming
            self._scaler.load_state_dict(state["scaler"])
        set_rng_state(state["rng"], self.device)
        self.epoch = progress["epoch"]
        self.step_in_epoch = progress["step_in_epoch"]
        self.step = progress["step"]
        self._epoch_open = progress["epoch_open"]
        self._samples_in_epoch = progress["samples_in_epoch"] // world_size()
        self._totals = EpochTotals(dict(progress["sums"]), progress["counted"])
        self.fault_counts = FaultCounts(**state["faults"])
        self.history = json.loads(progress["history"])
        self.best = state["best"]


def _to_floats(terms: list[dict[str, Tensor]], norm: Tensor) -> tuple[list[dict[str, float]], float]:
    """The loss terms of each micro-batch and the gradient norm, in one transfer: each costs a wait for the device."""
    flat = torch.stack([value.float() for losses in terms for value in losses.values()] + [norm.float()]).tolist()
    values = iter(flat)
    return [{name: next(values) for name in losses} for losses in terms], flat[-1]
