"""The benchmark of MASS against its parts: its images, its runs, its processes and its table."""

from __future__ import annotations

import importlib
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.backbone import check_name
from a2mamba.data import write_demo
from a2mamba.tasks import task_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evidence.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """By its name, so that the processes that it starts can import it."""
    sys.path.insert(0, str(SCRIPT.parent))
    yield importlib.import_module(SCRIPT.stem)
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def many(script: ModuleType) -> ModuleType:
    """The part of it that knows nothing of what is compared."""
    return importlib.import_module("many_trainings")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, script: ModuleType) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("data")
    write_demo(root / "demo", segmentation_scenes=40, train_scenes=1, val_scenes=2)
    largest, demo = script.write_data(root, 70)
    assert (largest, demo) == (root / "largest-70", root / "demo")
    return largest, demo


def test_the_largest_digit_decides(script: ModuleType) -> None:
    """Digits that are squares of their own brightness: the class's covers the most."""
    inks = [[np.full((32, 32), 255, dtype=np.uint8)], [np.zeros((32, 32), dtype=np.uint8)]]
    image_of = importlib.import_module("largest_digit").image_of
    shares = []
    for label in (0, 1):
        generator = np.random.default_rng(3)
        image = np.asarray(image_of(label, inks, generator))
        assert image.shape == (96, 96)
        shares.append((image > 130).mean())
    assert shares[0] > shares[1] + 0.15


def test_images_are_written_for_both_splits_and_depend_on_nothing_else(script: ModuleType, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("digit_0", "digit_1"):
            folder = tmp_path / "digits" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((32, 32), 200, dtype=np.uint8)).save(folder / "a.png")
    for root in ("one", "two"):
        script.write_images(tmp_path / "digits", tmp_path / root, train=4, val=2)
    files = [sorted((tmp_path / root).rglob("*.png")) for root in ("one", "two")]
    assert [file.relative_to(tmp_path / "one").parts[:2] for file in files[0]] == [
        ("train", "digit_0"),
        ("train", "digit_0"),
        ("train", "digit_1"),
        ("train", "digit_1"),
        ("val", "digit_0"),
        ("val", "digit_1"),
    ]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


def test_runs_differ_in_the_backbone_alone(script: ModuleType, tmp_path: Path) -> None:
    for name in script.VARIANTS.values():
        check_name(name)
    first, second = (script.classification(tmp_path, name, 3) for name in list(script.VARIANTS.values())[:2])
    assert first.model.name != second.model.name
    assert (first.data, first.optimizer, first.schedule) == (second.data, second.optimizer, second.schedule)
    scenes = script.segmentation(tmp_path, "ablation_lass_test", 5, None)
    assert (scenes.model.backbone, scenes.schedule.iterations, scenes.test.scales) == ("ablation_lass_test", 5, (1.0,))
    assert not scenes.model.backbone_checkpoint
    continued = script.Training("segmentation", "LASS", 7, 5, tmp_path, 70, begins_with=tmp_path / "last.pt").run()
    assert continued == replace(scenes, seed=7, model=replace(scenes.model, backbone_checkpoint=tmp_path / "last.pt"))


def test_segmentation_asks_for_the_classification_that_it_begins_with(
    script: ModuleType, data: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(data[0].parent), "--images", "70", "--tasks", "segmentation"]
    monkeypatch.setattr(sys, "argv", ["evidence.py", *words])
    assert script.main() == 2
    first = "classification-ablation_mass_test-70-10-42"
    assert f"{first}/checkpoints/last.pt: add classification to --tasks" in capsys.readouterr().err


def test_the_table(script: ModuleType) -> None:
    row = {
        "task": "classification",
        "device": "a GPU",
        "torch": "2.11",
        "processes": 3,
        "cpu_seconds": 90.0,
    }
    rows = [
        row | {"variant": variant, "score": score, "resumed": variant == "LASS"}
        for variant, score in (("MASS", 80.0), ("MASS", 82.0), ("LASS", 78.5))
    ]
    assert script.table(rows).splitlines()[2:] == [
        "| MASS | 81.00 | 80.00, 82.00 |  | 2 | 90 |",
        # The error of a difference: 1.41 times the root of 1 / 2 + 1 / 1.
        "| LASS | 78.50 | 78.50, 78.50 | -2.50 ± 1.7 | 1 |  |",
        "",
        "Standard deviation of a seed, pooled over the rows: 1.41.",
        "",
        "3 trainings: a GPU, torch 2.11, 3 at a time.",
    ]
    assert script.pooled_deviation([[80.0, 84.0], [85.0, 85.0], [1.0]]) == 2
    assert "| LASS | 78.50 | 78.50, 78.50 | -1.50 | 1 |  |" in script.table(rows[::2])


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_shared_batches_are_those_of_the_loader(
    script: ModuleType, many: ModuleType, data: tuple[Path, Path], tmp_path: Path, task: str
) -> None:
    folder, length = (data[0], 5) if task == "classification" else (data[1], 10)
    training = script.Training(task, "LASS", 3, length, folder, 70)
    run, batches = training.run(), script.batch_folder(training, tmp_path)
    assert sum(many.write_batches(run, batches, part) for part in range(many.PARTS)) == 10
    assert many.write_batches(run, batches, 0) == 0  # they are there
    loader: Any = task_of(run).prepare(run, device="cpu").loader
    shared = many.SharedBatches(batches, task, steps=len(loader))
    epoch = 4 if task == "classification" else 0
    loader.set_epoch(epoch)
    shared.set_epoch(epoch)
    for skipped in (0, 1):
        loader.skip(32 * skipped)
        shared.skip(32 * skipped)
        expected, found = list(loader), list(shared)
        assert len(expected) == len(found) == len(shared) == len(loader) > 0
        for one, other in zip(expected, found, strict=True):
            assert type(one) is type(other)
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.targets, other.targets)
            assert one.paths == other.paths


def test_processes_side_by_side_and_the_failure_of_one(many: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    calls = [partial(operator.truediv, 6, 3), partial(operator.truediv, 1, 0), partial(os._exit, 3)]
    calls += [partial(operator.truediv, 8, 2)]
    assert dict(many.side_by_side(calls, 2)) == {0: 2.0, 1: None, 2: None, 3: 4.0}
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_what_is_missing_is_trained_and_failures_are_reported(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def serial(calls: Sequence[Callable[[], Any]], processes: int) -> Iterator[tuple[int, Any]]:
        for number, call in enumerate(calls):
            assert isinstance(call, partial)
            training = call.args[0]
            asked.append(training.variant)
            row = training.key | {"score": 50.0, "cpu_seconds": 2.0, "resumed": False}
            row |= {"device": "d", "torch": "t"}
            yield number, None if training.variant == failing else row

    monkeypatch.setattr(script, "side_by_side", serial)
    trainings = [script.Training("classification", v, 1, 2, tmp_path, 70) for v in ("MASS", "LASS", "no gate")]
    work = partial(script.measured, out=tmp_path)
    failing = "LASS"
    assert script.train_all(trainings, tmp_path, work, processes=1) == 1
    assert "1 of 3 trainings failed: classification-ablation_lass_test-70-2-1" in capsys.readouterr().err
    assert [row["variant"] for row in json.loads((tmp_path / "evidence.json").read_text())["runs"]] == [
        "MASS",
        "no gate",
    ]
    asked.clear()
    failing = ""
    assert script.train_all(trainings, tmp_path, work, processes=1) == 0
    assert asked == ["LASS"]
    assert (tmp_path / "evidence.md").read_text().endswith("3 trainings: d, torch t, 1 at a time.\n")


@pytest.mark.slow
@pytest.mark.parametrize("share", [False, True])
def test_the_benchmark_from_a_command(data: tuple[Path, Path], tmp_path: Path, share: bool) -> None:
    """Two variants of both tasks; batches from files change nothing."""
    words = ["--images", "70", "--epochs", "1", "--iterations", "2", "--seeds", "1", "--variants", "MASS", "LASS"]
    words += ["--tasks", "classification", "segmentation", "--processes", "2", "--data", str(data[0].parent)]
    words += ["--share-batches"] * share
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path), *words]
    for wanted in (4, 0):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('"score"') == wanted
    rows = json.loads((tmp_path / "evidence.json").read_text())["runs"]
    assert {(row["task"], row["variant"], row["steps"]) for row in rows} == {
        (task, variant, 2) for task in ("classification", "segmentation") for variant in ("MASS", "LASS")
    }
    assert bool(list(tmp_path.glob("batches-*"))) is share
