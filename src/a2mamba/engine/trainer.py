"""The training loop: one for classification, segmentation and detection. It knows no model and no data set.

Read `Trainer.fit`, `_run_epoch` and `_step`, in this order; the rest is bookkeeping.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib import metadata
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from a2mamba.engine.checkpoint import FORMAT
from a2mamba.engine.distributed import (
    Strategy,
    average_batch_norm,
    defer_gradient_sync,
    distribute,
    gather_objects,
    is_main_process,
    lost_process,
    rank,
    sum_over_processes,
    unwrap,
    world_size,
)
from a2mamba.engine.ema import Ema
from a2mamba.engine.errors import INTERRUPTED, OUT_OF_TIME, TERMINATED, Interrupted, TrainingError
from a2mamba.engine.faults import (
    FaultCounts,
    FaultPolicy,
    StepStart,
    first_nonfinite_module,
    last_nonfinite_gradient,
    names_of,
    save_dump,
)
from a2mamba.engine.precision import Precision
from a2mamba.engine.rng import rng_state, seed_step, set_rng_state
from a2mamba.engine.schedule import Schedule
from a2mamba.engine.sharding import like, optimizer_state_like, to_whole
from a2mamba.engine.task import Progress, TrainingTask
from a2mamba.engine.tree import move_to

if TYPE_CHECKING:
    from a2mamba.engine.hooks import Hook

_log = logging.getLogger(__name__)
_REQUESTS = ("stop", "save", INTERRUPTED, TERMINATED, OUT_OF_TIME)
_SMALLEST_SCALE = 1.0  # of float16 gradients; below it an overflow is no longer one of the scaler's making


class Loader(Protocol):
    """What the loop needs of a DataLoader: the same number of batches in every epoch, and that number.

    Exact resuming inside an epoch asks a little more of it. Where it (or its `sampler`, or `batch_sampler`) is a
    `ResumableSampler`, only the rest of the epoch is drawn; the randomness of a sample must then not depend on which
    samples the same worker process made before (in the main process it is seeded for each step anyway). Any other
    loader draws the epoch's used batches again and drops them; it must take all its randomness from the global
    generators, that is, have no `generator` and no persistent workers.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


@runtime_checkable
class ResumableSampler(Protocol):
    """A sampler whose order is a function of its seed and the epoch, and that can begin inside an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of this epoch, from its beginning."""
        ...

    def skip(self, samples: int) -> None:
        """Makes the iteration leave out the first `samples` samples that this process has in the epoch."""
        ...


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
    channels_last  memory format of the model and of 4-D inputs (of the inputs alone where the model is sharded)
    run            the resolved run as JSON, stored with every checkpoint
    strategy       how several processes train one model, see `distribute`; without effect where there is one
    sync_batch_norm  batch statistics over all processes (the paper's scripts); otherwise over each one's own samples
    faults         what is done about steps that are not finite, see `FaultPolicy`

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
        strategy: Strategy = "ddp",
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
        # FSDP2 takes contiguous parameters only.
        weights_format = torch.preserve_format if strategy == "fsdp" else self.memory_format
        for model in [task.model] + ([ema.module] if ema is not None else []):
            # In place: the optimizer goes on holding the same parameters. (mypy sees only some of the overloads.)
            model.to(device=self.device, memory_format=weights_format)  # type: ignore[call-overload]
        task.model = distribute(
            task.model,
            strategy=strategy,
            sync_batch_norm=sync_batch_norm,
            device=self.device,
            optimizer=optimizer,
            average=None if ema is None else ema.module,
        )
        self._average_norms = world_size() > 1 and not sync_batch_norm

        self.epoch = 0
        self.step_in_epoch = 0
        self.step = 0
        self.last_step: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.metric_names: set[str] = set()
        self.best: dict[str, Any] | None = None
        self.stop_reason: str | None = None
        self.save_requested = False
        self.last_good: Callable[[], dict[str, Any]] | None = None
        self._status: int | None = None
        self._requests: dict[str | int, str] = {}
        self._start: StepStart | None = None
        self._dumps = 0
        self._scaler = precision.grad_scaler()
        self._sums: dict[str, float] = {}
        self._samples_in_epoch = 0  # of this process: the position in its sampler
        self._counted = 0  # of all processes: those in the sums
        self._seconds = 0.0
        self._timed_samples = 0
        self._resume_sampler()  # a sampler that was left inside an epoch may shorten the loader
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
                    at_begin = _copied(self.state_dict())
                    self.last_good = lambda: at_begin
                while self.epoch < self.epochs and self.stop_reason is None:
                    self._run_epoch()
                for hook in self.hooks:
                    hook.after_fit(self)
        except RuntimeError as error:
            if not lost_process(error):
                raise
            raise TrainingError(
                f"another process of this run has ended (process {rank()} of {world_size()} lost it at step "
                f"{self.step}); resume from the newest checkpoint"
            ) from error
        if self._status is not None:
            raise Interrupted(self.stop_reason or "", status=self._status)

    def _run_epoch(self) -> None:
        self.task.model.train()
        started = time.perf_counter()
        for group in self._groups():
            if not self._step(group):
                return  # the position is another one
            self.last_step["seconds"] = time.perf_counter() - started
            self._seconds += self.last_step["seconds"]
            for hook in self.hooks:
                hook.after_step(self)
            if self.stop_reason is not None:
                return
            started = time.perf_counter()
        self._finish_epoch()
        for hook in self.hooks:
            hook.after_epoch(self)
        if world_size() > 1:
            self._hear(sum_over_processes(self._say()))

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
        values, norm_value = _to_floats(terms, to_whole(norm))
        means, count = self._over_processes(values, sizes)
        if not self._is_finite(means, norm_value):
            self._scaler.update()
            return self._bear_fault(group, progress, values, means, norm_value, sizes, count)
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
        for name, value in means.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * count
        self._counted += count
        self._advance(means, norm_value, sizes, count)
        return True

    def request_stop(self, reason: str, *, interrupt: bool = False, status: int = INTERRUPTED) -> None:
        """Ends training after the current step (from `after_step`) or epoch; hooks' `after_fit` still runs.

        With `interrupt`, `fit` then raises Interrupted with `status`: the run did not end by its own rules. Where there
        are several processes, one request ends all: after the next step, when the others have heard of it.
        """
        if world_size() > 1:
            self._requests |= {"stop": reason} | ({status: reason} if interrupt else {})
            return
        self.stop_reason = reason
        if interrupt and self._status is None:
            self._status = status

    def request_save(self, wanted: bool = True) -> None:
        """Asks for a checkpoint soon: `save_requested` is set for `after_step`, at the same step in every process.

        False withdraws what was not yet granted: a checkpoint was written for another reason.
        """
        if wanted:
            self._requests["save"] = ""
        else:
            self._requests.pop("save", None)

    def add_metrics(self, metrics: dict[str, float]) -> None:
        """Adds values to the row of the epoch just completed (for `after_epoch`), and their names to `metric_names`."""
        self.history[-1].update(metrics)
        self.metric_names.update(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint holds (see `checkpoint`); every process has to take part."""
        return {
            "format": FORMAT,
            "model": to_whole(dict(unwrap(self.task.model).state_dict())),
            "ema": None if self.ema is None else to_whole(dict(self.ema.state_dict())),
            "optimizer": to_whole(self.optimizer.state_dict()),
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
                "sums": dict(self._sums),
                "counted": self._counted,
                "history": json.dumps(self.history),
            },
            "faults": self.fault_counts.state_dict(),
            "best": None if self.best is None else dict(self.best),
            "run": self.run,
            "versions": _versions(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken. Raises ValueError, one line, where it is of another run."""
        progress = state["progress"]
        if progress["step_in_epoch"] and progress["steps_per_epoch"] != self.steps_per_epoch:
            raise ValueError(
                f"the checkpoint was taken inside an epoch of {progress['steps_per_epoch']} steps, and an epoch has "
                f"{self.steps_per_epoch} now; resume with the same total batch size, or from the end of an epoch"
            )
        if (state["ema"] is None) != (self.ema is None):
            has, wants = ("no", "has one") if state["ema"] is None else ("an", "has none")
            raise ValueError(f"the checkpoint has {has} averaged (EMA) model, and this run {wants}")
        if progress["samples_in_epoch"] % world_size():
            raise ValueError(
                f"the {progress['samples_in_epoch']} samples used of this epoch cannot be shared by {world_size()} "
                "processes; resume with another number of them, or from the end of an epoch"
            )
        self.schedule.load_state_dict(state["schedule"])
        _load_strictly(unwrap(self.task.model), state["model"], "model")
        if self.ema is not None:
            _load_strictly(self.ema.module, state["ema"], "averaged model")
        self.optimizer.load_state_dict(optimizer_state_like(state["optimizer"], self.optimizer))
        if state["scaler"] and self._scaler.is_enabled():  # the precision may be changed on resuming
            self._scaler.load_state_dict(state["scaler"])
        set_rng_state(state["rng"], self.device)
        self.epoch = progress["epoch"]
        self.step_in_epoch = progress["step_in_epoch"]
        self.step = progress["step"]
        self._samples_in_epoch = progress["samples_in_epoch"] // world_size()
        self._sums = dict(progress["sums"])
        self._counted = progress["counted"]
        self.fault_counts = FaultCounts(**state["faults"])
        self.history = json.loads(progress["history"])
        self.best = state["best"]

    def _groups(self) -> Iterator[list[Any]]:
        """The micro-batches of each remaining step of this epoch, the generators seeded for the step."""
        begin = self.step_in_epoch
        epoch_start = self.step - begin
        drawn = self._resume_sampler()
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

    def _resume_sampler(self) -> bool:
        """Sets the loader's sampler to the current position; whether it could begin inside the epoch."""
        samplers = [self.loader, *(getattr(self.loader, name, None) for name in ("sampler", "batch_sampler"))]
        for sampler in samplers:
            if isinstance(sampler, ResumableSampler):
                sampler.set_epoch(self.epoch)
                sampler.skip(self._samples_in_epoch)
                return True
        for sampler in samplers:
            if isinstance(sampler, torch.utils.data.distributed.DistributedSampler):
                sampler.set_epoch(self.epoch)
        return False

    def _over_processes(self, values: list[dict[str, float]], sizes: list[int]) -> tuple[dict[str, float], int]:
        """The step's mean of each loss term and of their sum, over all processes, and the number of its samples.

        The same exchange carries the requests of `request_stop` and `request_save`.
        """
        sums = {name: sum(terms[name] * size for terms, size in zip(values, sizes, strict=True)) for name in values[0]}
        said = self._say()
        numbers = sum_over_processes([*said, float(sum(sizes)), *sums.values()])
        self._hear(numbers[: len(said)])
        count, *totals = numbers[len(said) :]
        means = {f"loss_{name}": total / count for name, total in zip(sums, totals, strict=True)}
        return {"loss": sum(means.values())} | means, round(count)

    def _say(self) -> list[float]:
        """Which requests this process has."""
        return [float(request in self._requests) for request in _REQUESTS]

    def _hear(self, counts: list[float]) -> None:
        """Grants the requests that any process has; every process grants the same at the same step."""
        asked = {request for request, count in zip(_REQUESTS, counts, strict=True) if count}
        self.save_requested = "save" in asked
        if "stop" in asked:
            self.stop_reason = self._requests.get("stop", "another process of the run was asked to stop")
            statuses = [request for request in _REQUESTS if request in asked and isinstance(request, int)]
            self._status = statuses[0] if statuses and self._status is None else self._status
        self._requests.clear()

    def _is_finite(self, means: dict[str, float], norm: float) -> bool:
        """The same answer in every process: a value that is not finite in one makes the mean over all so."""
        if not all(map(math.isfinite, means.values())):
            return False
        # In float16 a gradient may overflow: the scaler then leaves out the step and lowers its scale.
        scaled = self._scaler.is_enabled() and self._scaler.get_scale() >= _SMALLEST_SCALE
        return math.isfinite(norm) or scaled

    def _bear_fault(
        self,
        group: list[Any],
        progress: Progress,
        values: list[dict[str, float]],
        means: dict[str, float],
        norm: float,
        sizes: list[int],
        count: int,
    ) -> bool:
        """Leaves out a step that is not finite and reports it; after several in a row goes back, then gives up.

        Returns False where the run went back to an earlier position. Every process comes here for the same step.
        """
        report, samples = self._examine(group, progress, values, norm)
        assert self._start is not None
        self._start.restore()
        self.optimizer.zero_grad(set_to_none=True)
        counts, policy = self.fault_counts, self.fault_policy
        counts.skipped += 1
        counts.in_a_row += 1
        if counts.in_a_row < policy.patience:
            if is_main_process():
                _log.warning("%s", report)
            self._advance(means, norm, sizes, count)
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

    def _examine(
        self, group: list[Any], progress: Progress, values: list[dict[str, float]], norm: float
    ) -> tuple[str, list[str]]:
        """One line about what was not finite, where and for which samples, over all processes; saves the batches."""
        bad = [batch for batch, terms in zip(group, values, strict=True) if not all(map(math.isfinite, terms.values()))]
        model = unwrap(self.task.model)
        gradient = last_nonfinite_gradient(model)
        assert self._start is not None
        self._start.restore()

        def forward() -> None:
            for batch in group:
                with torch.no_grad(), self.precision.autocast():
                    self.task.losses(move_to(batch, self.device, self.memory_format), progress)

        place = first_nonfinite_module(model, forward)  # every process: the forward may exchange batch statistics
        samples = [name for batch in bad for name in self.task.describe(batch)]
        losses = "; ".join(", ".join(f"{name} {value:g}" for name, value in terms.items()) for terms in values)
        everyone = gather_objects((place, gradient, samples, losses))
        places = [found[0] for found in everyone if found[0]]
        gradients = [found[1] for found in everyone if found[1]]
        of_loss = any(found[2] for found in everyone)
        all_samples = [name for found in everyone for name in found[2]]
        if not of_loss:
            all_samples = [n for names in gather_objects(self._names(group)) for n in names]
        if places:
            where = f"first in the output of {places[0]}" if places[0].endswith(")") else f"first in {places[0]}"
        elif of_loss:
            where = "first in the loss itself"
        else:
            where = f"first in the gradient of {gradients[0]}" if gradients else "in no single gradient"
        saved = self._dump(bad if of_loss else group, values, place or gradient or "", norm)
        what = "loss" if of_loss else f"gradient (norm {norm:g})"
        shown = [found[3] for found in everyone if found[2]] or [everyone[0][3]]
        return (
            f"the {what} is not finite at step {self.step} (epoch {self.epoch + 1}), {where}; the optimizer step was "
            f"not taken: {'; '.join(shown)}; samples: {', '.join(names_of(all_samples))}{saved}"
        ), all_samples

    def _names(self, group: list[Any]) -> list[str]:
        return [name for batch in group for name in self.task.describe(batch)]

    def _dump(self, batches: list[Any], values: list[dict[str, float]], place: str, norm: float) -> str:
        """Saves batches of this process, as long as there may be more; what to add to the report about it."""
        folder = self.fault_policy.folder
        if folder is None or not batches or self._dumps >= self.fault_policy.dumps:
            return ""
        path = folder / f"step-{self.step:08d}-process-{rank()}.pt"
        content = {
            "step": self.step,
            "epoch": self.epoch,
            "seed": self.seed,
            "place": place,
            "losses": values,
            "grad_norm": norm,
            "samples": self._names(batches),
            "batches": batches,
        }
        try:
            save_dump(path, content)
        except OSError as error:  # the evidence is not worth the run
            return f"; not saved: {error}"
        self._dumps += 1
        return f"; saved to {path}"

    def _advance(self, means: dict[str, float], norm: float, sizes: list[int], count: int) -> None:
        """Moves the position by one step."""
        self.last_step = means | {"grad_norm": norm, "lr": self._lr(), "images": float(count)}
        self.step += 1
        self.step_in_epoch += 1
        self._samples_in_epoch += sum(sizes)
        self._timed_samples += count

    def _finish_epoch(self) -> None:
        self.epoch += 1
        row = {"epoch": float(self.epoch), "step": float(self.step), "lr": self._lr()}
        row |= {name: value / self._counted for name, value in self._sums.items()}
        row["seconds"] = self._seconds
        row["images_per_second"] = self._timed_samples / self._seconds if self._seconds else math.nan
        if self.fault_counts.skipped:
            row["skipped_steps"] = float(self.fault_counts.skipped)
        self.history.append(row)
        self.step_in_epoch = 0
        self._samples_in_epoch = self._timed_samples = self._counted = 0
        self._seconds = 0.0
        self._sums = {}

    def _lr(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))


def _to_floats(terms: list[dict[str, Tensor]], norm: Tensor) -> tuple[list[dict[str, float]], float]:
    """The loss terms of each micro-batch and the gradient norm, in one transfer: each costs a wait for the device."""
    flat = torch.stack([value.float() for losses in terms for value in losses.values()] + [norm.float()]).tolist()
    values = iter(flat)
    return [{name: next(values) for name in losses} for losses in terms], flat[-1]


def _copied(tree: Any) -> Any:
    """A copy of a state, in main memory."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _load_strictly(module: nn.Module, saved: dict[str, Tensor], what: str) -> None:
    ours = module.state_dict()
    problems = [f"{name} is missing" for name in ours if name not in saved]
    problems += [f"{name} is not in the {what}" for name in saved if name not in ours]
    problems += [
        f"{name} is {tuple(saved[name].shape)}, expected {tuple(value.shape)}"
        for name, value in ours.items()
        if name in saved and saved[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise ValueError(f"the checkpoint does not fit the {what}: {', '.join(problems[:4])}{more}")
    module.load_state_dict({name: like(saved[name], value) for name, value in ours.items()})


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with the build, unlike metadata
    for name in ("a2mamba", "timm", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # noqa: PERF203 - used from a source folder
            versions[name] = "not installed"
    return versions
