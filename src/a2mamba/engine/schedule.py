"""The learning rate over a run. The cosine is timm's; the polynomial and the steps are formulas of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from a2mamba.engine.errors import ScheduleError


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


@dataclass(kw_only=True)
class PolynomialScheduleConfig:
    """A polynomial down to `min_lr` over a number of iterations, under a linear warm-up: segmentation protocols.

    With i the iteration, I = iterations, W = warmup_iterations, f = warmup_factor and LR the peak:

        curve(i) = min_lr + (LR - min_lr) (1 - i / I) ** power
        lr(i)    = curve(i) (1 - (1 - i / W) (1 - f)) for i < W, curve(i) after that

    The run is counted in epochs of `interval` iterations, whatever the size of the data set is; that is also how often
    it can be evaluated.
    """

    iterations: int
    """optimizer steps of the run"""
    interval: int
    """optimizer steps that count as one epoch: of evaluation, checkpoints and rows in metrics.csv"""
    warmup_iterations: int = 1500
    """optimizer steps of linear warm-up"""
    warmup_factor: float = 1e-6
    """factor of the learning rate at the first step"""
    power: float = 1.0
    """of the polynomial"""
    min_lr: float = 0.0
    """learning rate at which the polynomial ends"""

    def __post_init__(self) -> None:
        if not 1 <= self.interval <= self.iterations or self.iterations % self.interval:
            raise ValueError(f"interval is {self.interval}; it must divide the {self.iterations} iterations of the run")
        if self.power <= 0:
            raise ValueError(f"power is {self.power:g}; it must be positive")
        _check_warmup(self.warmup_iterations, self.warmup_factor)

    @property
    def total_epochs(self) -> int:
        """The epochs, of `interval` iterations each, that a run with this schedule takes."""
        return self.iterations // self.interval

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What multiplies the part of the peak above `min_lr` at a step, before warm-up."""
        return float((1 - min(step, self.iterations) / self.iterations) ** self.power)


@dataclass(kw_only=True)
class StepScheduleConfig:
    """A rate that is multiplied by `gamma` at each of the milestones, under a linear warm-up: detection protocols.

    With i the step, W = warmup_iterations and f = warmup_factor, the first W steps are multiplied by
    1 - (1 - i / W) (1 - f).
    """

    epochs: int
    """epochs of the run"""
    milestones: tuple[int, ...]
    """completed epochs after which the rate drops"""
    gamma: float = 0.1
    """factor of each drop"""
    warmup_iterations: int = 500
    """optimizer steps of linear warm-up"""
    warmup_factor: float = 1e-3
    """factor of the learning rate at the first step"""
    min_lr: float = 0.0
    """learning rate that the drops approach"""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is {self.epochs}; it must be at least 1")
        if list(self.milestones) != sorted(set(self.milestones)) or any(m < 1 for m in self.milestones):
            raise ValueError(f"milestones are {self.milestones}; they must rise, from 1 on")
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma is {self.gamma:g}; it must be more than 0 and at most 1")
        _check_warmup(self.warmup_iterations, self.warmup_factor)

    @property
    def total_epochs(self) -> int:
        """The epochs that a run with this schedule takes."""
        return self.epochs

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What multiplies the part of the peak above `min_lr` at a step, before warm-up."""
        return self.gamma ** sum(step >= milestone * steps_per_epoch for milestone in self.milestones)


AnyScheduleConfig = ScheduleConfig | PolynomialScheduleConfig | StepScheduleConfig


class Schedule:
    """Sets the learning rates of an optimizer from the position in the run alone, so that resuming needs no history.

    A group's `lr_scale` (layer decay, a decoder's larger rate) multiplies its rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: AnyScheduleConfig, *, steps_per_epoch: int) -> None:
        self._curve: _Cosine | _Formula
        if isinstance(config, ScheduleConfig):
            self._curve = _Cosine(optimizer, config, steps_per_epoch)
        else:
            self._curve = _Formula(optimizer, config, steps_per_epoch)

    def apply(self, epoch: int, step_in_epoch: int) -> None:
        """Sets the rates for the step `step_in_epoch` of epoch `epoch`, both counted from 0."""
        self._curve.apply(epoch, step_in_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The numbers that define the curve."""
        return self._curve.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Checks that the saved curve is this one; ScheduleError tells where they differ.

        A run resumed on another curve would be neither the old run nor a new one, and would not say so. The number of
        epochs is not part of the curve of steps: more of them continue it exactly (the cosine: cooldown_epochs).
        """
        ours = self.state_dict()
        keys = [key for key in ours if key != "epochs"]
        if not isinstance(state, dict) or not all(_is_plain(state.get(key)) for key in keys):
            raise ScheduleError("schedule is not that of this run, or damaged")
        differing = [f"{key} {state.get(key)} -> {ours[key]}" for key in keys if state.get(key) != ours[key]]
        if differing:
            raise ScheduleError(f"trained with another schedule: {', '.join(differing)}")


def _is_plain(value: Any) -> bool:
    return all(isinstance(v, int | float | None) for v in (value if isinstance(value, list) else [value]))


class _Formula:
    """A configuration's `factor`, under its linear warm-up."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        config: PolynomialScheduleConfig | StepScheduleConfig,
        steps_per_epoch: int,
    ) -> None:
        self._optimizer = optimizer
        self._config = config
        self._steps_per_epoch = steps_per_epoch
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]
        if not 0 <= config.min_lr <= max(self._peaks):
            raise ValueError(
                f"min_lr ({config.min_lr:g}) must lie between 0 and the peak learning rate ({max(self._peaks):g})"
            )

    def apply(self, epoch: int, step_in_epoch: int) -> None:
        step = epoch * self._steps_per_epoch + step_in_epoch
        factor = self._config.factor(step, self._steps_per_epoch)
        warm = 1.0
        if step < self._config.warmup_iterations:
            warm -= (1 - step / self._config.warmup_iterations) * (1 - self._config.warmup_factor)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            rate = self._config.min_lr + (peak - self._config.min_lr) * factor
            group["lr"] = rate * warm * group.get("lr_scale", 1.0)

    def state_dict(self) -> dict[str, Any]:
        numbers = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self._config).items()}
        return numbers | {"steps_per_epoch": self._steps_per_epoch, "peak": list(self._peaks)}


class _Cosine:
    """timm's cosine."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: ScheduleConfig, steps_per_epoch: int) -> None:
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


def _check_warmup(iterations: int, factor: float) -> None:
    if iterations < 0:
        raise ValueError(f"warmup_iterations is {iterations}; it may not be negative")
    if not 0 < factor <= 1:
        raise ValueError(f"warmup_factor is {factor:g}; it must be more than 0 and at most 1")
