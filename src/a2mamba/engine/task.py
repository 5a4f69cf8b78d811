"""What the engine asks of a task, and what it tells the task about time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Progress:
    """Where a run stands when a step begins.

    epoch            epochs completed: 0 during the first epoch
    step             optimizer steps completed since the run began
    steps_per_epoch  optimizer steps in one epoch
    epochs           epochs that the run is to complete
    """

    epoch: int
    step: int
    steps_per_epoch: int
    epochs: int


class TrainingTask(Protocol):
    """Turns a batch into losses. It may hold more than a model: a second (EMA) model to learn from, a mixup, ..."""

    model: nn.Module
    """the model that is trained; the loop puts DistributedDataParallel around it where there are several processes"""

    def losses(self, batch: Any, progress: Progress) -> dict[str, Tensor]:
        """Named scalar losses, each a mean over the samples of the batch; their sum is minimized.

        Called under autocast, with the batch on the device and the random generators seeded for this step.
        """
        ...

    def batch_size(self, batch: Any) -> int:
        """How many samples the sampler drew for this batch: the weight of its mean, and the measure of progress."""
        ...

    def describe(self, batch: Any) -> list[str]:
        """The names of the samples (file names, or indices), for messages about a batch that went wrong."""
        ...
