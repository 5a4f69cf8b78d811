"""The training loop: one for classification, segmentation and detection. It knows no model and no data set.

Read `Trainer.fit`, `_run_epoch` and `_step`, in this order; the rest is bookkeeping.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib import metadata
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from a2mamba.engine.checkpoint import FORMAT
from a2mamba.engine.distributed import defer_gradient_sync, rank, unwrap, world_size
from a2mamba.engine.ema import Ema
from a2mamba.engine.errors import Interrupted, TrainingError
from a2mamba.engine.precision import Precision
from a2mamba.engine.rng import rng_state, seed_step, set_rng_state
from a2mamba.engine.schedule import Schedule
from a2mamba.engine.task import Progress, Task
from a2mamba.engine.tree import move_to

if TYPE_CHECKING:
    from a2mamba.engine.hooks import Hook


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

    task           losses, batch sizes and sample names (see `Task`)
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

    Randomness: before the batches of a step are drawn, all global generators are seeded from (seed, step, rank). Unlike
    generator states that are carried along, this lets nothing between steps (evaluation, a hook, another number of
    devices) change training, and a run resumed at any step goes on bit for bit without the history of its generators.

    Public state, for hooks: `epoch` (completed), `step_in_epoch`, `step` (over the run), `steps_per_epoch`, `last_step`
    (the numbers of the step just made: loss, its terms, grad_norm, lr, images, seconds), `history` (one row per
    completed epoch; losses are means over the samples of this process), `metric_names` (what hooks have added to rows),
    `best` (metric, value and epoch), `stop_reason`.
    """

    def __init__(
        self,
        task: Task,
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
        for model in [task.model] + ([ema.module] if ema is not None else []):
            # In place: the optimizer goes on holding the same parameters. (mypy sees only some of the overloads.)
            model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

        self.epoch = 0
        self.step_in_epoch = 0
        self.step = 0
        self.last_step: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self.metric_names: set[str] = set()
        self.best: dict[str, Any] | None = None
        self.stop_reason: str | None = None
        self._interrupted = False
        self._scaler = precision.grad_scaler()
        self._sums: dict[str, float] = {}
        self._samples_in_epoch = 0
        self._seconds = 0.0
        self._timed_samples = 0
        self._resume_sampler()  # a sampler that was left inside an epoch may shorten the loader
        self._batches_per_epoch = len(loader)
        if self._batches_per_epoch == 0:
            raise ValueError("the training loader has no batch: are there fewer samples than one batch holds?")
        self.steps_per_epoch = math.ceil(self._batches_per_epoch / accumulate)

    def fit(self) -> None:
        """Trains from the current position to the end, or until a stop is requested.

        Raises TrainingError when training cannot go on, and Interrupted, after the hooks have saved, when a hook
        passed on a request from outside.
        """
        with ExitStack() as cleanup:
            for hook in self.hooks:
                cleanup.callback(hook.close, self)
            for hook in self.hooks:
                hook.before_fit(self)
            while self.epoch < self.epochs and self.stop_reason is None:
                self._run_epoch()
            for hook in self.hooks:
                hook.after_fit(self)
        if self._interrupted:
            raise Interrupted(self.stop_reason)

    def _run_epoch(self) -> None:
        self.task.model.train()
        started = time.perf_counter()
        for group in self._groups():
            self._step(group)
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

    def _step(self, group: list[Any]) -> None:
        """One optimizer step on the micro-batches of `group`."""
        self.schedule.apply(self.epoch, self.step_in_epoch)
        progress = Progress(self.epoch, self.step, self.steps_per_epoch, self.epochs)
        sizes = [self.task.batch_size(batch) for batch in group]
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
        norm = self._clip()
        values, norm_value = _to_floats(terms, norm)
        self._check_finite(group, values, norm_value)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.task.model)
        self._record(values, sizes, norm_value)

    def request_stop(self, reason: str, *, interrupt: bool = False) -> None:
        """Ends training after the current step (from `after_step`) or epoch; hooks' `after_fit` still runs.

        With `interrupt`, `fit` then raises Interrupted: the run did not end by its own rules.
        """
        self.stop_reason = reason
        self._interrupted = self._interrupted or interrupt

    def add_metrics(self, metrics: dict[str, float]) -> None:
        """Adds values to the row of the epoch just completed (for `after_epoch`), and their names to `metric_names`."""
        self.history[-1].update(metrics)
        self.metric_names.update(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint holds (see `checkpoint`); every process may have to take part."""
        return {
            "format": FORMAT,
            "model": unwrap(self.task.model).state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
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
                "sums": dict(self._sums),
                "history": json.dumps(self.history),
            },
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
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self._scaler.is_enabled():  # the precision may be changed on resuming
            self._scaler.load_state_dict(state["scaler"])
        set_rng_state(state["rng"], self.device)
        self.epoch = progress["epoch"]
        self.step_in_epoch = progress["step_in_epoch"]
        self.step = progress["step"]
        self._samples_in_epoch = progress["samples_in_epoch"] // world_size()
        self._sums = dict(progress["sums"])
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

    def _clip(self) -> Tensor:
        """The global L2 norm of the gradient, before it is clipped."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        if self.clip_grad_norm is not None:
            clip_grads_with_norm_(parameters, self.clip_grad_norm, norm)
        return norm

    def _check_finite(self, group: list[Any], values: list[dict[str, float]], norm: float) -> None:
        bad = [batch for batch, terms in zip(group, values, strict=True) if not all(map(math.isfinite, terms.values()))]
        # In float16 a gradient may overflow: the scaler then leaves out the step and lowers its scale.
        if not bad and (math.isfinite(norm) or self._scaler.is_enabled()):
            return
        samples = [name for batch in bad or group for name in self.task.describe(batch)]
        what = "loss" if bad else f"gradient (norm {norm:g})"
        losses = "; ".join(", ".join(f"{name} {value:g}" for name, value in terms.items()) for terms in values)
        more = f" and {len(samples) - 8} more" if len(samples) > 8 else ""
        raise TrainingError(
            f"the {what} is not finite at step {self.step} (epoch {self.epoch + 1}); the optimizer step was not taken: "
            f"{losses}; samples: {', '.join(samples[:8])}{more}",
            samples=samples,
        )

    def _record(self, values: list[dict[str, float]], sizes: list[int], norm: float) -> None:
        """Moves the position by one step and adds the step to the epoch's means."""
        count = sum(sizes)
        means: dict[str, float] = {"loss": 0.0}
        for terms, size in zip(values, sizes, strict=True):
            for name, value in terms.items():
                means[f"loss_{name}"] = means.get(f"loss_{name}", 0.0) + value * size / count
                means["loss"] += value * size / count
        for name, value in means.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * count
        self.last_step = means | {"grad_norm": norm, "lr": self._lr(), "images": float(count * world_size())}
        self.step += 1
        self.step_in_epoch += 1
        self._samples_in_epoch += count
        self._timed_samples += count

    def _finish_epoch(self) -> None:
        self.epoch += 1
        row = {"epoch": float(self.epoch), "step": float(self.step), "lr": self._lr()}
        row |= {name: value / self._samples_in_epoch for name, value in self._sums.items()}
        row["seconds"] = self._seconds
        row["images_per_second"] = self._timed_samples * world_size() / self._seconds if self._seconds else math.nan
        self.history.append(row)
        self.step_in_epoch = 0
        self._samples_in_epoch = self._timed_samples = 0
        self._seconds = 0.0
        self._sums = {}

    def _lr(self) -> float:
        return float(max(group["lr"] for group in self.optimizer.param_groups))


def _to_floats(terms: list[dict[str, Tensor]], norm: Tensor) -> tuple[list[dict[str, float]], float]:
    """The loss terms of each micro-batch and the gradient norm, in one transfer: each costs a wait for the device."""
    flat = torch.stack([value.float() for losses in terms for value in losses.values()] + [norm.float()]).tolist()
    values = iter(flat)
    return [{name: next(values) for name in losses} for losses in terms], flat[-1]


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
    module.load_state_dict(saved)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with the build, unlike metadata
    for name in ("a2mamba", "timm", "numpy"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # noqa: PERF203 - used from a source folder
            versions[name] = "not installed"
    return versions
