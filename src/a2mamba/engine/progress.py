"""Progress on the console."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from a2mamba.engine.distributed import is_main_process
from a2mamba.engine.duration import duration
from a2mamba.engine.trainer import Hook, Trainer

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


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
        return duration((time.monotonic() - self._began) / done * left if done > 0 else 0.0)  # a run may go back
