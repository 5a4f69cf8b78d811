"""The learning rate over a run: warm-up, one cosine, cooldown. The curve is timm's; the position is ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(kw_only=True)
class ScheduleConfig:
    """One cosine from the optimizer's learning rate down to `min_lr`, with a linear warm-up and a flat end.

    With t the time (epochs; a fraction of them with `per_step`), E = epochs, W = warmup_epochs and LR the peak:

        t < W        warmup_lr + t (LR - warmup_lr) / W
        W <= t < E   min_lr + (LR - min_lr) (1 + cos(pi t / E)) / 2
        E <= t       min_lr

    The warm-up covers the beginning of the cosine, so that there is a small step where it ends. `warmup_prefix` puts it
    in front instead: the cosine then begins at its peak at W and takes E - W epochs.
    """

    epochs: int
    """epochs of warm-up and cosine together"""
    warmup_epochs: int = 5
    """epochs of linear warm-up"""
    cooldown_epochs: int = 0
    """epochs at min_lr, run after the others"""
    warmup_lr: float = 1e-6
    """learning rate at which the warm-up begins"""
    min_lr: float = 1e-5
    """learning rate at which the cosine ends"""
    per_step: bool = False
    """move with every optimizer step, where the paper's scripts move once an epoch"""
    warmup_prefix: bool = False
    """begin the cosine after the warm-up"""

    @property
    def total_epochs(self) -> int:
        """The epochs that a run with this schedule takes."""
        return self.epochs + self.cooldown_epochs


class Schedule:
    """Sets the learning rates of an optimizer from the position in the run alone, so that resuming needs no history.

    A group's `lr_scale` (timm's layer decay) multiplies its rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: ScheduleConfig, *, steps_per_epoch: int) -> None:
        from timm.scheduler import CosineLRScheduler  # see build_optimizer

        _check(config, peak=max(group["lr"] for group in optimizer.param_groups))
        self._per_step = config.per_step
        self._steps_per_epoch = steps_per_epoch
        unit = steps_per_epoch if config.per_step else 1
        cosine_epochs = config.epochs - (config.warmup_epochs if config.warmup_prefix else 0)
        self._cosine = CosineLRScheduler(
            optimizer,
            t_initial=cosine_epochs * unit,
            lr_min=config.min_lr,
            warmup_t=config.warmup_epochs * unit,
            warmup_lr_init=config.warmup_lr,
            warmup_prefix=config.warmup_prefix,
            t_in_epochs=not config.per_step,
        )

    def apply(self, epoch: int, step_in_epoch: int) -> None:
        """Sets the rates for the step `step_in_epoch` of epoch `epoch`, both counted from 0."""
        if self._per_step:
            self._cosine.step_update(epoch * self._steps_per_epoch + step_in_epoch)
        else:
            self._cosine.step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The numbers that define the curve."""
        state = {key: value for key, value in self._cosine.state_dict().items() if isinstance(value, int | float)}
        return state | {"peak": list(self._cosine.base_values)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that the saved curve is this one; ValueError tells where they differ.

        A run resumed on another curve would be neither the old run nor a new one, and would not say so.
        """
        ours = self.state_dict()
        differing = [f"{key} {state.get(key)} -> {ours[key]}" for key in ours if state.get(key) != ours[key]]
        if differing:
            raise ValueError(f"the checkpoint was trained with another schedule: {', '.join(differing)}")


def _check(config: ScheduleConfig, *, peak: float) -> None:
    if config.epochs < 1:
        raise ValueError(f"epochs is {config.epochs}; it must be at least 1")
    if config.warmup_epochs < 0 or config.cooldown_epochs < 0:
        raise ValueError(
            f"warmup_epochs is {config.warmup_epochs} and cooldown_epochs {config.cooldown_epochs}; "
            "neither may be negative"
        )
    if config.warmup_epochs >= config.epochs:
        raise ValueError(f"warmup_epochs ({config.warmup_epochs}) must be less than epochs ({config.epochs})")
    if not 0 <= config.min_lr <= peak:
        raise ValueError(f"min_lr ({config.min_lr:g}) must lie between 0 and the peak learning rate ({peak:g})")
    if config.warmup_epochs and not 0 <= config.warmup_lr <= peak:
        raise ValueError(f"warmup_lr ({config.warmup_lr:g}) must lie between 0 and the peak learning rate ({peak:g})")
