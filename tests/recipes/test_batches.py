"""The learning rate that follows the total batch."""

from __future__ import annotations

from dataclasses import replace

import pytest

from a2mamba.recipes import make_run
from a2mamba.recipes.batches import linear_lr, override


def test_the_linear_rule() -> None:
    """The authors' auto-lr: 1e-3 x total / 1024, which is 2e-3 for 2048."""
    assert linear_lr(2048) == pytest.approx(2e-3)
    assert linear_lr(1024) == pytest.approx(1e-3)
    assert linear_lr(512, per_1024=4e-3) == pytest.approx(2e-3)


def test_the_rate_follows_the_batch() -> None:
    run, notes = override(make_run("in1k_tiny"), ["data.batch_size=512"])
    assert run.data.batch_size == 512
    assert run.optimizer.lr == pytest.approx(5e-4)
    (note,) = notes
    assert "0.002 -> 0.0005" in note
    assert "2048 -> 512" in note
    # The ends of the curve are not scaled.
    assert (run.schedule.min_lr, run.schedule.warmup_lr) == (1e-5, 1e-6)


def test_a_rate_that_was_set_stays() -> None:
    run, notes = override(make_run("in1k_tiny"), ["data.batch_size=512", "optimizer.lr=3e-4"])
    assert (run.optimizer.lr, notes) == (3e-4, [])
    # Also where it is the recipe's own.
    run, notes = override(make_run("in1k_tiny"), ["optimizer.lr=2e-3", "data.batch_size=512"])
    assert (run.optimizer.lr, notes) == (2e-3, [])


def test_without_another_batch_nothing_is_scaled() -> None:
    before = make_run("in1k_tiny")
    run, notes = override(before, ["seed=3", "data.batch_size=2048", "micro_batch=128"])
    assert notes == []
    assert run == replace(before, seed=3, micro_batch=128)
