"""What happens around a step: evaluating, saving, logging, stopping. A hook never changes gradients or losses.

A run shows its hooks in one list, and they are called in that order. Evaluation goes first, because loggers and
checkpoints record what it adds to the epoch's row; checkpoints go last, because they record what all others saw:

    hooks = [EvaluationHook(...), CsvLogger(...), TensorBoardLogger(...), ProgressHook(), SignalHook(),
             CheckpointHook(CheckpointManager(...))]
"""

from __future__ import annotations

import csv
import io
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from a2mamba.engine.checkpoint import CheckpointManager
from a2mamba.engine.distributed import from_main_process, is_main_process, unwrap
from a2mamba.engine.errors import INTERRUPTED, OUT_OF_TIME, TERMINATED
from a2mamba.engine.sharding import whole
from a2mamba.files import replace_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from torch.utils.tensorboard import SummaryWriter

    from a2mamba.engine.trainer import Trainer


class Hook:
    """Does nothing at each of its moments; subclasses override those that they need.

    In a distributed run every process calls its hooks; those that write do so on the first process only.
    """

    def before_fit(self, trainer: Trainer) -> None:
        """Once, when training begins or continues."""

    def after_step(self, trainer: Trainer) -> None:
        """After every optimizer step; `trainer.last_step` has its numbers."""

    def after_epoch(self, trainer: Trainer) -> None:
        """After every completed epoch; `trainer.history[-1]` is its row, to which `trainer.add_metrics` adds."""

    def after_fit(self, trainer: Trainer) -> None:
        """Once, when training ends or a stop was requested; not when it failed."""

    def close(self, trainer: Trainer) -> None:
        """Always, last: releases what `before_fit` took, also when that or training failed."""


class EvaluationHook(Hook):
    """Evaluates after every `every`-th epoch and after the last.

    evaluate  model (in eval mode, without gradients, under the run's autocast) -> (name, value) pairs; with several
              processes each evaluates its share and `merge_metrics` joins them before the values are made
    use_ema   evaluate the averaged model too, where the run has one; its metrics are named ema_<name>
    """

    def __init__(
        self, evaluate: Callable[[nn.Module], Iterable[tuple[str, float]]], *, every: int = 1, use_ema: bool = True
    ) -> None:
        if every < 1:
            raise ValueError(f"evaluation every {every} epochs is not possible; the least is 1")
        self.evaluate = evaluate
        self.every = every
        self.use_ema = use_ema

    def after_epoch(self, trainer: Trainer) -> None:
        """Adds the metrics to the epoch's row."""
        if trainer.epoch % self.every and trainer.epoch < trainer.epochs:
            return
        trainer.add_metrics(self._run(unwrap(trainer.task.model), trainer, prefix=""))
        if self.use_ema and trainer.ema is not None:
            trainer.add_metrics(self._run(trainer.ema.module, trainer, prefix="ema_"))

    def _run(self, model: nn.Module, trainer: Trainer, *, prefix: str) -> dict[str, float]:
        was_training = model.training
        model.eval()
        # Not inference_mode: what a model caches during it, such as rotary tables, could not be used in training after.
        with whole(model), torch.no_grad(), trainer.precision.autocast():
            metrics = {prefix + name: float(value) for name, value in self.evaluate(model)}
        model.train(was_training)
        # Sums may differ between processes in their last bits, and a decision on them has to be the same everywhere.
        return from_main_process(metrics)


class CheckpointHook(Hook):
    """Saves after every `every`-th epoch, after the last, after one that is the best, and when training is stopped.

    `every_steps` and `every_minutes` save inside epochs too, though not between steps that are not finite: the newest
    checkpoint is what the run goes back to when those do not end. The best is the highest value of the manager's
    `best_metric`; ValueError after the first evaluation that does not have it (the checkpoint is saved first).
    """

    def __init__(
        self,
        manager: CheckpointManager,
        *,
        every: int = 1,
        every_steps: int | None = None,
        every_minutes: float | None = None,
    ) -> None:
        if every < 1 or (every_steps is not None and every_steps < 1):
            raise ValueError(f"checkpoints every {every} epochs and {every_steps} steps: the least is 1")
        if every_minutes is not None and every_minutes <= 0:
            raise ValueError(f"checkpoints every {every_minutes:g} minutes: expected more than 0")
        self.manager = manager
        self.every = every
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self._saved_at: tuple[int, int] | None = None
        self._saved_when = 0.0

    def before_fit(self, trainer: Trainer) -> None:
        """Refuses to begin a new run among the checkpoints of another, which it would remove (ValueError)."""
        self._saved_at = (trainer.epoch, trainer.step)
        self._saved_when = time.monotonic()
        if trainer.step > 0:
            trainer.last_good = self.manager.last_good
        if trainer.step == 0 and is_main_process() and any(self.manager.directory.glob("checkpoint-*.pt")):
            raise ValueError(
                f"{self.manager.directory} holds checkpoints of another run; resume it, or choose another folder"
            )

    def after_step(self, trainer: Trainer) -> None:
        """Saves inside the epoch."""
        due = self.every_steps is not None and trainer.step % self.every_steps == 0
        if (due or trainer.save_requested) and not trainer.fault_counts.in_a_row:
            self._save(trainer, is_best=False)
        elif self.every_minutes is not None and time.monotonic() - self._saved_when > 60 * self.every_minutes:
            trainer.request_save()

    def after_epoch(self, trainer: Trainer) -> None:
        """Saves, and moves the best."""
        row, metric = trainer.history[-1], self.manager.best_metric
        value = row.get(metric, math.nan)
        is_best = math.isfinite(value) and (trainer.best is None or value > trainer.best["value"])
        if is_best:
            trainer.best = {"metric": metric, "value": value, "epoch": trainer.epoch}
        if is_best or trainer.epoch % self.every == 0 or trainer.epoch == trainer.epochs:
            self._save(trainer, is_best=is_best)
        if metric not in row and not trainer.metric_names.isdisjoint(row):
            names = ", ".join(sorted(trainer.metric_names))
            raise ValueError(f"the best checkpoint is chosen by {metric!r}, which is not evaluated; there are: {names}")

    def after_fit(self, trainer: Trainer) -> None:
        """Saves what is not saved yet: the run was stopped inside an epoch, or between two saves."""
        if self._saved_at != (trainer.epoch, trainer.step):
            self._save(trainer, is_best=False)

    def _save(self, trainer: Trainer, *, is_best: bool) -> None:
        state = trainer.state_dict()
        if is_main_process():
            self.manager.save(state, is_best=is_best)
        self._saved_at = (trainer.epoch, trainer.step)
        self._saved_when = time.monotonic()
        trainer.last_good = self.manager.last_good
        trainer.request_save(False)


class CsvLogger(Hook):
    """One row per epoch in a CSV file. A column that appears late (a metric evaluated every 5 epochs) is added.

    The file is read back and replaced as a whole each time: rows of epochs that a resumed run makes again are thus
    never double, and a reader never sees half a row.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def after_epoch(self, trainer: Trainer) -> None:
        """Writes the epoch's row."""
        if not is_main_process():
            return
        rows: list[dict[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if float(row["epoch"]) < trainer.epoch]
        rows.append({name: f"{value:.10g}" for name, value in trainer.history[-1].items()})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
        replace_text(self.path, text.getvalue())


class TensorBoardLogger(Hook):
    """Scalars for TensorBoard over optimizer steps: `step/...` every `every_steps`, `epoch/...` after each epoch.

    Raises ValueError when training begins and TensorBoard is not installed.
    """

    def __init__(self, directory: str | Path, *, every_steps: int = 20) -> None:
        self.directory = Path(directory)
        self.every_steps = every_steps
        self._writer: SummaryWriter | None = None

    def before_fit(self, trainer: Trainer) -> None:
        """Opens the event file; what an interrupted run wrote after the resumed position is hidden."""
        if not is_main_process():
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise ValueError('TensorBoard is not installed: pip install "a2mamba[tensorboard]"') from None
        self._writer = SummaryWriter(str(self.directory), purge_step=trainer.step + 1)

    def after_step(self, trainer: Trainer) -> None:
        """Writes the step's numbers."""
        if self._writer is not None and trainer.step % self.every_steps == 0:
            for name, value in trainer.last_step.items():
                self._writer.add_scalar(f"step/{name}", value, trainer.step)

    def after_epoch(self, trainer: Trainer) -> None:
        """Writes the epoch's row."""
        if self._writer is not None:
            for name, value in trainer.history[-1].items():
                self._writer.add_scalar(f"epoch/{name}", value, trainer.step)
            self._writer.flush()

    def close(self, trainer: Trainer) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class ProgressHook(Hook):
    """Progress on standard error: a bar on a terminal with a line per epoch above it, else the lines only.

    The bar covers the whole run, so that its remaining time is that of the run. `quiet` shows nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: RichProgress | None = None
        self._bar_task: TaskID | None = None
        self._began = 0.0
        self._first_step = 0

    def before_fit(self, trainer: Trainer) -> None:
        """Shows the bar, on a terminal."""
        self._began, self._first_step = time.monotonic(), trainer.step
        if self.quiet or not is_main_process() or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=Console(stderr=True),
        )
        self._bar_task = self._bar.add_task("", total=trainer.steps_per_epoch * trainer.epochs, numbers="")
        self._bar.start()

    def after_step(self, trainer: Trainer) -> None:
        """Moves the bar."""
        if self._bar is None or self._bar_task is None:
            return
        last = trainer.last_step
        speed = last["images"] / last["seconds"] if last["seconds"] else 0.0
        numbers = f"loss {last['loss']:.4f}  lr {last['lr']:.3g}  {speed:.0f} images/s  {self._remaining(trainer)} left"
        epoch = f"epoch {trainer.epoch + 1}/{trainer.epochs}"
        self._bar.update(self._bar_task, completed=trainer.step, description=epoch, numbers=numbers)

    def after_epoch(self, trainer: Trainer) -> None:
        """Shows the epoch's line."""
        if self.quiet or not is_main_process():
            return
        row = trainer.history[-1]
        metrics = "".join(f"  {name} {row[name]:.4g}" for name in row if name in trainer.metric_names)
        line = (
            f"epoch {trainer.epoch}/{trainer.epochs}  loss {row['loss']:.4f}{metrics}  lr {row['lr']:.3g}  "
            f"{row['images_per_second']:.0f} images/s  {self._remaining(trainer)} left"
        )
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self, trainer: Trainer) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _remaining(self, trainer: Trainer) -> str:
        """Time to the end of the run at the mean speed of this session, evaluation and saving included."""
        done = trainer.step - self._first_step
        left = trainer.steps_per_epoch * trainer.epochs - trainer.step
        seconds = round((time.monotonic() - self._began) / done * left) if done > 0 else 0  # a run may go back
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class SignalHook(Hook):
    """Ctrl-C and SIGTERM end the run after the current step: it is saved, and `Trainer.fit` raises Interrupted.

    The exit statuses are 130 and 143. The second signal acts at once, as if this hook were not there. Signals can be
    caught in the main thread only; elsewhere the hook does nothing.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def before_fit(self, trainer: Trainer) -> None:
        """Takes the two signals."""
        if threading.current_thread() is not threading.main_thread():
            return

        def stop(number: int, frame: FrameType | None) -> None:
            status = TERMINATED if number == signal.SIGTERM else INTERRUPTED
            trainer.request_stop(f"received {signal.Signals(number).name}", interrupt=True, status=status)
            self.close(trainer)

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, stop)

    def close(self, trainer: Trainer) -> None:
        """Gives the signals back."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)


class TimeLimitHook(Hook):
    """Ends the run after a number of minutes, as a signal does: saved, `Interrupted`, exit status 75.

    For machines that are lent for a time; leave enough of it for a step, an evaluation and a checkpoint. The clock
    starts when the hook is made.
    """

    def __init__(self, minutes: float) -> None:
        if minutes <= 0:
            raise ValueError(f"the time limit is {minutes:g} minutes; it must be more than 0")
        self.minutes = minutes
        self._began = time.monotonic()

    def after_step(self, trainer: Trainer) -> None:
        """Asks for the end when it is due."""
        if time.monotonic() - self._began >= 60 * self.minutes:
            reason = f"the time limit of {self.minutes:g} minutes"
            trainer.request_stop(reason, interrupt=True, status=OUT_OF_TIME)
