"""A run's numbers in a CSV file, in TensorBoard, in Weights & Biases."""

from __future__ import annotations

import csv
import io
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from a2mamba.engine.distributed import is_main_process
from a2mamba.engine.trainer import Hook, Trainer
from a2mamba.files import replace_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class ScalarLogger(Hook):
    """Writes, in the first process alone, the numbers of every `every_steps`-th step and the row of every epoch.

    A subclass opens what it writes to in `begin` and closes it in `end`; `is_open` says whether it is.
    """

    every_steps: int | None = None
    is_open = False

    @abstractmethod
    def write(self, kind: Literal["step", "epoch"], numbers: Mapping[str, float], step: int) -> None:
        """Writes the numbers of a step, or of an epoch that ended with it."""

    def begin(self, trainer: Trainer) -> None:
        """Opens what is written to. Raises ValueError where the package for it is not installed."""

    def end(self) -> None:
        """Closes it."""

    def before_fit(self, trainer: Trainer) -> None:
        """Begins."""
        if is_main_process():
            self.begin(trainer)
            self.is_open = True

    def after_step(self, trainer: Trainer) -> None:
        """Writes the step's numbers."""
        if self.is_open and self.every_steps is not None and trainer.step % self.every_steps == 0:
            self.write("step", trainer.last_step, trainer.step)

    def after_epoch(self, trainer: Trainer) -> None:
        """Writes the epoch's row."""
        if self.is_open:
            self.write("epoch", trainer.history[-1], trainer.step)

    def close(self, trainer: Trainer) -> None:
        """Ends."""
        if self.is_open:
            self.is_open = False
            self.end()


class CsvLogger(ScalarLogger):
    """One row per epoch in a CSV file. A column that appears late (a metric evaluated every 5 epochs) is added.

    The file is read back and replaced as a whole each time: rows of epochs that a resumed run makes again are thus
    never double, and a reader never sees half a row.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, kind: Literal["step", "epoch"], numbers: Mapping[str, float], step: int) -> None:
        """Writes the epoch's row. Raises ValueError where the file of an earlier part of the run is damaged."""
        earlier = read_metrics(self.path) if self.path.exists() else []
        rows = [row for row in earlier if row["epoch"] < numbers["epoch"]] + [dict(numbers)]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), restval="")
        writer.writeheader()
        writer.writerows({name: f"{value:.10g}" for name, value in row.items()} for row in rows)
        replace_text(self.path, text.getvalue())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv, without what was not measured in their epoch.

    Raises ValueError, one line that names file and row, for a file that CsvLogger did not write.
    """
    rows: list[dict[str, float]] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                try:
                    rows.append({name: float(value) for name, value in row.items() if value != ""})
                except (TypeError, ValueError):
                    raise ValueError(f"row {number} has a cell that is no number, or too many or few of them") from None
                if not {"epoch", "step"} <= rows[-1].keys():
                    raise ValueError(f"row {number} has no epoch or no step")
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it") from None
    return rows


class TensorBoardLogger(ScalarLogger):
    """Scalars for TensorBoard over optimizer steps: `step/...` every `every_steps`, `epoch/...` after each epoch."""

    def __init__(self, directory: str | Path, *, every_steps: int = 20) -> None:
        self.directory = Path(directory)
        self.every_steps = every_steps
        self._writer: SummaryWriter | None = None

    def begin(self, trainer: Trainer) -> None:
        """Opens the event file; what an interrupted run wrote after the resumed position is hidden."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise ValueError('TensorBoard is not installed: pip install "a2mamba[tensorboard]"') from None
        self._writer = SummaryWriter(str(self.directory), purge_step=trainer.step + 1)

    def write(self, kind: Literal["step", "epoch"], numbers: Mapping[str, float], step: int) -> None:
        """Writes the numbers."""
        assert self._writer is not None
        for name, value in numbers.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
        if kind == "epoch":
            self._writer.flush()

    def end(self) -> None:
        """Closes the event file."""
        assert self._writer is not None
        self._writer.close()


class WandbLogger(ScalarLogger):
    """Scalars in Weights & Biases over optimizer steps, named as in TensorBoard.

    The identity of the run is kept in the run's folder, so that a resumed run continues its curves.

    Args:
        project: the project's name there.
        output: the run's folder; wandb_id.txt is written there, and wandb's own files.
        config: what is stored beside the curves.
        every_steps: steps between two points.
    """

    def __init__(self, project: str, output: Path, config: Mapping[str, Any], *, every_steps: int = 20) -> None:
        self.project = project
        self.output = output
        self.config = dict(config)
        self.every_steps = every_steps
        self._run: Any = None

    def begin(self, trainer: Trainer) -> None:
        """Opens the run there, or continues it."""
        try:
            import wandb
        except ModuleNotFoundError:
            raise ValueError("wandb is not installed: pip install wandb, or set wandb=none") from None
        identity = self.output / "wandb_id.txt"
        known = identity.read_text().strip() if trainer.step and identity.is_file() else None
        self.output.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.project,
            dir=str(self.output),
            config=self.config,
            id=known,
            resume="allow",
            name=self.output.name,
        )
        replace_text(identity, self._run.id)

    def write(self, kind: Literal["step", "epoch"], numbers: Mapping[str, float], step: int) -> None:
        """Logs the numbers."""
        self._run.log({f"{kind}/{name}": value for name, value in numbers.items()}, step=step)

    def end(self) -> None:
        """Closes the run there."""
        self._run.finish()
