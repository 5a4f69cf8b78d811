"""What happens around a step: evaluating, saving, stopping. A hook never changes gradients or losses.

A run shows its hooks in one list, and they are called in that order. Evaluation goes first, because loggers and
checkpoints record what it adds to the epoch's row; checkpoints go last, because they record what all others saw:

    hooks = [EvaluationHook(...), CsvLogger(...), TensorBoardLogger(...), ProgressHook(), SignalHook(),
             CheckpointHook(CheckpointManager(...)), EarlyStoppingHook(...)]
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import nn

from a2mamba.engine.checkpoint import CheckpointManager
from a2mamba.engine.distributed import from_main_process, is_main_process, unwrap
from a2mamba.engine.errors import INTERRUPTED, OUT_OF_TIME, TERMINATED
from a2mamba.engine.trainer import Hook, Trainer


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
        with torch.no_grad(), trainer.precision.autocast():
            metrics = {prefix + name: float(value) for name, value in self.evaluate(model)}
        model.train(was_training)
        # Sums may differ between processes in their last bits, and a decision on them has to be the same everywhere.
        return from_main_process(metrics)


class CheckpointHook(Hook):
    """Saves after every `every`-th epoch, after the last, after one that is the best, and when training is stopped.

    An epoch that is saved is saved before its evaluation too, which a broken file or a kill may end: the run goes on
    with that evaluation.
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

    def after_last_step(self, trainer: Trainer) -> None:
        """Saves the epoch's steps before anything is done with them."""
        if self._is_due(trainer):
            self._save(trainer, is_best=False)

    def after_epoch(self, trainer: Trainer) -> None:
        """Saves what the evaluation has added, and moves the best."""
        row, metric = trainer.history[-1], self.manager.best_metric
        value = row.get(metric, math.nan)
        is_best = math.isfinite(value) and (trainer.best is None or value > trainer.best["value"])
        if is_best:
            trainer.best = {"metric": metric, "value": value, "epoch": trainer.epoch}
        evaluated = not trainer.metric_names.isdisjoint(row)
        if is_best or (evaluated and self._is_due(trainer)):
            self._save(trainer, is_best=is_best)
        if metric not in row and evaluated:
            names = ", ".join(sorted(trainer.metric_names))
            raise ValueError(f"the best checkpoint is chosen by {metric!r}, which is not evaluated; there are: {names}")

    def after_fit(self, trainer: Trainer) -> None:
        """Saves what is not saved yet: the run was stopped inside an epoch, or between two saves."""
        if self._saved_at != (trainer.epoch, trainer.step):
            self._save(trainer, is_best=False)

    def _is_due(self, trainer: Trainer) -> bool:
        return trainer.epoch % self.every == 0 or trainer.epoch == trainer.epochs

    def _save(self, trainer: Trainer, *, is_best: bool) -> None:
        state = trainer.state_dict()
        if is_main_process():
            self.manager.save(state, is_best=is_best)
        self._saved_at = (trainer.epoch, trainer.step)
        self._saved_when = time.monotonic()
        trainer.last_good = self.manager.last_good
        trainer.request_save(False)


class EarlyStoppingHook(Hook):
    """Ends the run when the best metric was not exceeded in `patience` epochs. It goes behind CheckpointHook.

    Looked at when the metric was evaluated: the best epoch is the one that CheckpointHook keeps in `trainer.best`.
    """

    def __init__(self, metric: str, *, patience: int) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience} epochs; it must be at least 1")
        self.metric = metric
        self.patience = patience

    def after_epoch(self, trainer: Trainer) -> None:
        """Asks for the end when it is due."""
        best = trainer.best
        if best is None or self.metric not in trainer.history[-1] or trainer.epoch >= trainer.epochs:
            return
        if trainer.epoch - best["epoch"] >= self.patience:
            trainer.request_stop(
                f"{self.metric} was not above {best['value']:.4g}, that of epoch {best['epoch']}, in "
                f"{trainer.epoch - best['epoch']} epochs (patience {self.patience})"
            )


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
