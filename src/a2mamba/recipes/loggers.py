"""Logging to Weights & Biases, for those who have it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2mamba.engine import Hook, is_main_process
from a2mamba.files import replace_text

if TYPE_CHECKING:
    from a2mamba.engine import Trainer


class WandbLogger(Hook):
    """Scalars over optimizer steps: `step/...` every ``every_steps``, `epoch/...` after each epoch.

    The identity of the run is kept in the run's folder, so that a resumed run continues its curves.

    Args:
        project: the project's name there.
        output: the run's folder; wandb_id.txt is written there, and wandb's own files.
        config: what is stored beside the curves.
        every_steps: steps between two points.

    Raises:
        ValueError: when training begins and wandb is not installed.
    """

    def __init__(self, project: str, output: Path, config: Mapping[str, Any], *, every_steps: int = 20) -> None:
        self.project = project
        self.output = output
        self.config = dict(config)
        self.every_steps = every_steps
        self._run: Any = None

    def before_fit(self, trainer: Trainer) -> None:
        """Open the run there, or continue it."""
        if not is_main_process():
            return
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

    def after_step(self, trainer: Trainer) -> None:
        """Log the step's numbers."""
        if self._run is not None and trainer.step % self.every_steps == 0:
            self._run.log({f"step/{name}": value for name, value in trainer.last_step.items()}, step=trainer.step)

    def after_epoch(self, trainer: Trainer) -> None:
        """Log the epoch's row."""
        if self._run is not None:
            self._run.log({f"epoch/{name}": value for name, value in trainer.history[-1].items()}, step=trainer.step)

    def close(self, trainer: Trainer) -> None:
        """Close the run there."""
        if self._run is not None:
            self._run.finish()
            self._run = None
