"""Weights & Biases, through a stand-in that keeps what it is told: the package is not installed here."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from a2mamba.engine import WandbLogger


class Run:
    """One run there."""

    def __init__(self, identity: str) -> None:
        self.id = identity
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, row: dict[str, float], *, step: int) -> None:
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], Run]]:
    """What `wandb.init` was asked for, and the run that it gave."""
    asked: list[tuple[dict[str, Any], Run]] = []

    def init(**options: Any) -> Run:
        run = Run(options["id"] or f"new{len(asked)}")
        asked.append((options, run))
        return run

    library = types.ModuleType("wandb")
    monkeypatch.setattr(library, "init", init, raising=False)
    monkeypatch.setitem(sys.modules, "wandb", library)
    return asked


def trainer(step: int) -> Any:
    return types.SimpleNamespace(step=step, last_step={"loss": 2.0, "lr": 0.1}, history=[{"epoch": 1.0, "top1": 50.0}])


def test_steps_and_epochs(begun: list[tuple[dict[str, Any], Run]], tmp_path: Path) -> None:
    logger = WandbLogger("digits", tmp_path / "run7", {"task": "classification"}, every_steps=10)
    logger.before_fit(trainer(0))
    for step in range(1, 21):
        logger.after_step(trainer(step))
    logger.after_epoch(trainer(20))
    logger.close(trainer(20))
    ((options, run),) = begun
    assert (options["project"], options["name"]) == ("digits", "run7")
    assert options["config"] == {"task": "classification"}
    assert options["id"] is None
    assert [step for step, _ in run.rows] == [10, 20, 20]
    assert run.rows[0][1] == {"step/loss": 2.0, "step/lr": 0.1}
    assert run.rows[2][1] == {"epoch/epoch": 1.0, "epoch/top1": 50.0}
    assert run.finished


def test_a_resumed_run_continues_its_curves(begun: list[tuple[dict[str, Any], Run]], tmp_path: Path) -> None:
    for step in (0, 30, 0):
        logger = WandbLogger("digits", tmp_path, {})
        logger.before_fit(trainer(step))
        logger.close(trainer(step))
    assert [options["id"] for options, _ in begun] == [None, "new0", None]
    assert {options["resume"] for options, _ in begun} == {"allow"}


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="wandb is not installed"):
        WandbLogger("digits", tmp_path, {}).before_fit(trainer(0))
    WandbLogger("digits", tmp_path, {}).close(trainer(0))
