"""Small forms of `benchmarks/reliability.py`, whose figures are in docs/reliability.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import reliability
from reliability_run import Plan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and gloo are not tested on Windows")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    return reliability.digits(tmp_path_factory.mktemp("reliability") / "demo")


def small(data: str, **changes: object) -> Plan:
    plan: dict[str, Any] = {"epochs": 2, "images": 32, "batch": 8, "slow_write": 0.1} | changes
    return Plan(data=data, folder="", **plan)


@pytest.mark.slow
def test_killed_runs_end_as_if_nothing_had_happened(digits: str) -> None:
    rows = reliability.kill(digits, times=3, seed=1, plan=small(digits))
    assert [row["signal"] for row in rows] == ["SIGKILL"] * 3 + ["SIGTERM"]
    assert [row["holds"] for row in rows] == [True] * 4, rows
    assert any(row["while_writing"] for row in rows)
    assert any(row["status"] == -9 for row in rows)


@pytest.mark.slow
def test_numbers_of_processes_agree(digits: str) -> None:
    rows = reliability.distribution(digits, steps=4, sizes=(2,), resume=False)
    assert [row["holds"] for row in rows] == [True] * 2, rows
    assert max(row["difference"] for row in rows[:1]) <= 1e-5


@pytest.mark.slow
def test_a_lost_process_ends_the_run_and_leaves_a_checkpoint(digits: str) -> None:
    (row,) = reliability.lost(digits, sizes=(2,))
    assert row["holds"], row
    assert row["seconds"] < 60


def test_undecodable_images_are_borne_and_named(digits: str) -> None:
    row = reliability.undecodable(digits, share=0.125, images=32)
    assert row["holds"], row
    assert len(row["reasons"]) == 4


def test_a_full_disk_costs_nothing_but_the_newest_checkpoint(digits: str) -> None:
    row = reliability.disk_full(digits)
    assert row["holds"], row
    assert "File too large" in row["error"] or "No space" in row["error"]
