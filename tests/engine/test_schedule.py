from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from a2mamba.engine import PolynomialScheduleConfig, Schedule, ScheduleConfig, StepScheduleConfig
from a2mamba.engine.schedule import AnyScheduleConfig


def make(config: AnyScheduleConfig, *, peak: float = 2e-3, steps_per_epoch: int = 10) -> tuple[Schedule, Any]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    return Schedule(optimizer, config, steps_per_epoch=steps_per_epoch), optimizer


def rate(config: AnyScheduleConfig, epoch: int, step: int = 0, **options: Any) -> float:
    schedule, optimizer = make(config, **options)
    schedule.apply(epoch, step)
    return float(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("warmup", [5, 20])
def test_the_papers_schedule_once_an_epoch(warmup: int) -> None:
    """facts/classification.md, section 2: 300 epochs, the cosine read at e and not at e - W, 10 epochs of cooldown."""
    config = ScheduleConfig(epochs=300, warmup_epochs=warmup, cooldown_epochs=10)
    assert config.total_epochs == 310
    assert rate(config, 0) == pytest.approx(1e-6)
    assert rate(config, 1) == pytest.approx(1e-6 + (2e-3 - 1e-6) / warmup)
    assert rate(config, warmup - 1) == pytest.approx(1e-6 + (warmup - 1) * (2e-3 - 1e-6) / warmup)
    for epoch in (warmup, 75, 150, 299):
        assert rate(config, epoch) == pytest.approx(1e-5 + 0.5 * (2e-3 - 1e-5) * (1 + math.cos(math.pi * epoch / 300)))
    assert rate(config, 150) == pytest.approx((2e-3 + 1e-5) / 2)
    for epoch in (300, 305, 309):
        assert rate(config, epoch) == pytest.approx(1e-5)


def test_the_stated_cosine_factors_where_the_warm_up_ends() -> None:
    for warmup, factor in ((5, 0.99931), (20, 0.98907)):
        found = rate(ScheduleConfig(epochs=300, warmup_epochs=warmup), warmup)
        assert (found - 1e-5) / (2e-3 - 1e-5) == pytest.approx(factor, abs=1e-5)


def test_within_an_epoch_the_rate_rests_unless_it_moves_with_steps() -> None:
    per_epoch = ScheduleConfig(epochs=30)
    per_step = ScheduleConfig(epochs=30, per_step=True)
    assert rate(per_epoch, 12, 7) == rate(per_epoch, 12, 0)
    assert rate(per_step, 12, 0) == pytest.approx(rate(per_epoch, 12, 0))
    # step 7 of 10 in epoch 12 is time 12.7
    assert rate(per_step, 12, 7) == pytest.approx(1e-5 + 0.5 * (2e-3 - 1e-5) * (1 + math.cos(math.pi * 12.7 / 30)))
    assert rate(per_step, 2, 5) == pytest.approx(1e-6 + 2.5 * (2e-3 - 1e-6) / 5)
    assert rate(per_step, 30, 0) == pytest.approx(1e-5)


def test_a_prefix_moves_the_cosine_behind_the_warm_up() -> None:
    config = ScheduleConfig(epochs=30, warmup_epochs=5, warmup_prefix=True)
    assert rate(config, 4) == pytest.approx(1e-6 + 4 * (2e-3 - 1e-6) / 5)
    assert rate(config, 5) == pytest.approx(2e-3)
    assert rate(config, 20) == pytest.approx(1e-5 + 0.5 * (2e-3 - 1e-5) * (1 + math.cos(math.pi * 15 / 25)))
    assert rate(config, 30) == pytest.approx(1e-5)


def test_groups_keep_their_scale() -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups: list[dict[str, Any]] = [{"params": [parameters[0]], "lr_scale": 0.5}, {"params": [parameters[1]]}]
    optimizer = torch.optim.SGD(groups, lr=2e-3)
    Schedule(optimizer, ScheduleConfig(epochs=10, warmup_epochs=0), steps_per_epoch=1).apply(3, 0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * optimizer.param_groups[1]["lr"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig(epochs=5), r"warmup_epochs \(5\) must be less than epochs \(5\)"),
        (ScheduleConfig(epochs=0, warmup_epochs=0), "epochs is 0"),
        (ScheduleConfig(epochs=9, warmup_epochs=-1), "neither may be negative"),
        (ScheduleConfig(epochs=9, min_lr=1.0), r"min_lr \(1\) must lie between 0 and the peak"),
        (ScheduleConfig(epochs=9, warmup_lr=1.0), r"warmup_lr \(1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: ScheduleConfig, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make(config)


def test_another_curve_is_not_resumed() -> None:
    schedule, _ = make(ScheduleConfig(epochs=30))
    saved = schedule.state_dict()
    make(ScheduleConfig(epochs=30))[0].load_state_dict(saved)
    for config, expected in (
        (ScheduleConfig(epochs=40), "t_initial 30 -> 40"),
        (ScheduleConfig(epochs=30, min_lr=1e-6), "lr_min 1e-05 -> 1e-06"),
        (ScheduleConfig(epochs=30, warmup_epochs=3), "warmup_t 5 -> 3"),
    ):
        with pytest.raises(ValueError, match=expected):
            make(config)[0].load_state_dict(saved)
    with pytest.raises(ValueError, match="peak"):
        make(ScheduleConfig(epochs=30), peak=1e-3)[0].load_state_dict(saved)


def test_the_polynomial_of_the_segmentation_protocols() -> None:
    """facts/segmentation.md, A2: lr(i) = base (1 - i/160000) (1 - (1 - i/1500) (1 - 1e-6)) for i < 1500."""
    config = PolynomialScheduleConfig(iterations=160_000, interval=8_000)
    assert config.total_epochs == 20
    for step in (0, 1, 750, 1499):
        expected = 6e-5 * (1 - step / 160_000) * (1 - (1 - step / 1500) * (1 - 1e-6))
        assert rate(config, 0, step, peak=6e-5, steps_per_epoch=8_000) == pytest.approx(expected)
    for step in (1500, 80_000, 159_999):
        epoch, inside = divmod(step, 8_000)
        found = rate(config, epoch, inside, peak=6e-5, steps_per_epoch=8_000)
        assert found == pytest.approx(6e-5 * (1 - step / 160_000))


def test_the_steps_of_the_detection_protocol() -> None:
    """facts/detection.md, section 4: 1e-4 for epochs 0 to 26, 1e-5 for 27 to 32, 1e-6 for 33 to 35; 500 from 0.001."""
    config = StepScheduleConfig(epochs=36, milestones=(27, 33))
    for epoch, expected in ((1, 1e-4), (26, 1e-4), (27, 1e-5), (32, 1e-5), (33, 1e-6), (35, 1e-6)):
        assert rate(config, epoch, 0, peak=1e-4, steps_per_epoch=1000) == pytest.approx(expected)
    assert rate(config, 0, 0, peak=1e-4, steps_per_epoch=1000) == pytest.approx(1e-7)
    assert rate(config, 0, 250, peak=1e-4, steps_per_epoch=1000) == pytest.approx(1e-4 * (1 - 0.5 * 0.999))
    assert rate(config, 0, 500, peak=1e-4, steps_per_epoch=1000) == pytest.approx(1e-4)


@pytest.mark.parametrize("config", [PolynomialScheduleConfig(iterations=20, interval=5, warmup_iterations=3)])
def test_a_groups_scale_multiplies_its_rate(config: PolynomialScheduleConfig) -> None:
    groups: list[dict[str, Any]] = [
        {"params": [nn.Parameter(torch.zeros(1))]},
        {"params": [nn.Parameter(torch.zeros(1))], "lr_scale": 10.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    schedule = Schedule(optimizer, config, steps_per_epoch=5)
    for step in range(5):
        schedule.apply(1, step)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[1] == pytest.approx(10 * rates[0])
        assert rates[0] == pytest.approx(0.1 * (1 - (5 + step) / 20))


def test_another_curve_is_refused_on_resuming() -> None:
    kept = make(PolynomialScheduleConfig(iterations=20, interval=5), steps_per_epoch=5)[0].state_dict()
    with pytest.raises(ValueError, match=r"power 1\.0 -> 2\.0"):
        make(PolynomialScheduleConfig(iterations=20, interval=5, power=2.0), steps_per_epoch=5)[0].load_state_dict(kept)
    steps = make(StepScheduleConfig(epochs=3, milestones=(2,)))[0]
    steps.load_state_dict(steps.state_dict())
    with pytest.raises(ValueError, match="another schedule"):
        steps.load_state_dict(kept)


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: PolynomialScheduleConfig(iterations=10, interval=3), "divide"),
        (lambda: PolynomialScheduleConfig(iterations=10, interval=5, power=0), "power"),
        (lambda: PolynomialScheduleConfig(iterations=10, interval=5, warmup_iterations=-1), "negative"),
        (lambda: PolynomialScheduleConfig(iterations=10, interval=5, warmup_factor=0), "warmup_factor"),
        (lambda: StepScheduleConfig(epochs=0, milestones=()), "epochs"),
        (lambda: StepScheduleConfig(epochs=3, milestones=(2, 1)), "rise"),
        (lambda: StepScheduleConfig(epochs=3, milestones=(1,), gamma=2), "gamma"),
        (lambda: make(StepScheduleConfig(epochs=3, milestones=(1,), min_lr=1.0)), "min_lr"),
    ],
)
def test_impossible_curves_are_refused(make_config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config()


def test_more_epochs_continue_a_curve_of_steps_exactly() -> None:
    """The number of epochs is no part of it; of a cosine it is."""
    from a2mamba.engine import ScheduleError

    def steps(epochs: int) -> Schedule:
        return make(StepScheduleConfig(epochs=epochs, milestones=(8, 11)), steps_per_epoch=5)[0]

    steps(24).load_state_dict(steps(12).state_dict())
    other = make(StepScheduleConfig(epochs=12, milestones=(8, 10)), steps_per_epoch=5)[0]
    with pytest.raises(ScheduleError, match=r"milestones \[8, 11\] -> \[8, 10\]"):
        other.load_state_dict(steps(12).state_dict())

    def cosine(epochs: int, cooldown: int = 0) -> Schedule:
        return make(ScheduleConfig(epochs=epochs, cooldown_epochs=cooldown), steps_per_epoch=5)[0]

    cosine(12, cooldown=3).load_state_dict(cosine(12).state_dict())
    with pytest.raises(ScheduleError, match="t_initial 12 -> 24"):
        cosine(24).load_state_dict(cosine(12).state_dict())
