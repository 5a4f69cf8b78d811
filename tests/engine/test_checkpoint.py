from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from a2mamba.engine import CheckpointManager, load_checkpoint_file, save_checkpoint

from .toy import StopAt, assert_same, flip_byte, make_trainer

MARK = 1234.5678  # a value that can be found in the file


def state(epoch: int = 1, step_in_epoch: int = 0, value: float = MARK) -> dict[str, Any]:
    """A small state of the right form."""
    empty: dict[str, Any] = {key: {} for key in ("optimizer", "schedule", "scaler", "rng", "faults", "versions")}
    return empty | {
        "format": "a2mamba-checkpoint-1",
        "model": {"weight": torch.full((1000,), value)},
        "ema": None,
        "progress": {"epoch": epoch, "step_in_epoch": step_in_epoch},
        "best": None,
        "run": "{}",
    }


def value(path: Path) -> float:
    return float(load_checkpoint_file(path)["model"]["weight"][0])


def test_a_runs_state_survives_the_file(tmp_path: Path) -> None:
    trainer = make_trainer(epochs=2, hooks=[StopAt(9)])
    trainer.fit()
    original = trainer.state_dict()
    save_checkpoint(tmp_path / "a.pt", original)
    read = load_checkpoint_file(tmp_path / "a.pt")
    assert_same(read, original)
    assert read.keys() == {
        *("format", "model", "ema", "optimizer", "schedule", "scaler"),
        *("rng", "progress", "faults", "best", "run", "versions"),
    }
    assert read["run"] == '{"recipe": "toy"}'
    assert read["versions"]["torch"] == torch.__version__
    assert read["progress"]["samples_in_epoch"] == 8
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(value=1.0))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot save the checkpoint .*a\.pt: No space left on device"):
        save_checkpoint(path, state(value=2.0))
    monkeypatch.undo()
    assert value(path) == 1.0
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_disk_that_fills_up_while_torch_writes(tmp_path: Path) -> None:
    """The system refuses to let the file grow, as a full disk would; in a process of its own, which the limit binds."""
    path = tmp_path / "a.pt"
    save_checkpoint(path, state(value=1.0))
    script = """
import resource, sys, torch
from a2mamba.engine import load_checkpoint_file, save_checkpoint
new = load_checkpoint_file(sys.argv[1]) | {"model": {"weight": torch.ones(100_000)}}
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    save_checkpoint(sys.argv[1], new)
except OSError as error:
    print(error)
"""
    if sys.platform == "win32":
        pytest.skip("Windows has no such limit")
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot save the checkpoint {path}: File too large; an earlier file")
    assert done.stdout.count("\n") == 1
    assert value(path) == 1.0
    assert os.listdir(tmp_path) == ["a.pt"]


def test_missing_truncated_damaged_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(ValueError, match=r"a\.pt does not exist"):
        load_checkpoint_file(path)
    save_checkpoint(path, state())
    whole = path.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is damaged, or not a checkpoint") as error:
            load_checkpoint_file(path)
        assert "\n" not in str(error.value)
    path.write_bytes(whole)
    flip_byte(path, torch.full((2,), MARK).numpy().tobytes())
    with pytest.raises(ValueError, match=r"is damaged: the checksum of .* is wrong"):
        load_checkpoint_file(path)
    path.write_bytes(b"\xff\xd8\xff\xe0 an image")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_checkpoint_file(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="not a training checkpoint of a2mamba: format None"):
        load_checkpoint_file(path)
    torch.save([1], path)
    with pytest.raises(ValueError, match="format 'list'"):
        load_checkpoint_file(path)
    incomplete = state()
    del incomplete["rng"]
    torch.save(incomplete, path)
    with pytest.raises(ValueError, match="lacks rng"):
        load_checkpoint_file(path)


class Harmful:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.victim,))


def test_a_file_that_holds_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, victim = tmp_path / "a.pt", tmp_path / "victim"
    torch.save(state() | {"run": Harmful(victim)}, path)
    with pytest.raises(ValueError, match="holds more than plain data and is not read"):
        load_checkpoint_file(path)
    assert not victim.exists()


def test_the_manager_keeps_the_last_the_best_and_nothing_else(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path / "run", keep_last=2)
    assert manager.latest() is None
    for epoch in range(1, 5):
        manager.save(state(epoch, value=epoch), is_best=epoch == 1)
    (tmp_path / "run" / ".checkpoint-0009.pt.tmp").write_bytes(b"of a killed process")
    manager.save(state(4, 12, value=4.5))
    assert sorted(os.listdir(tmp_path / "run")) == [
        "best.pt",
        "checkpoint-0004-000012.pt",
        "checkpoint-0004.pt",
        "last.pt",
    ]
    assert value(tmp_path / "run" / "best.pt") == 1
    assert value(tmp_path / "run" / "last.pt") == 4.5
    latest = manager.latest()
    assert latest is not None
    assert latest[0].name == "checkpoint-0004-000012.pt"


def test_going_back_removes_the_abandoned_future(tmp_path: Path) -> None:
    manager = CheckpointManager(tmp_path, keep_last=3)
    for epoch in (1, 2, 3):
        manager.save(state(epoch))
    manager.save(state(2, 5))
    assert [path.name for _, path in manager._numbered()] == [
        *("checkpoint-0002-000005.pt", "checkpoint-0002.pt", "checkpoint-0001.pt")
    ]


def test_a_damaged_newest_falls_back_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = CheckpointManager(tmp_path, keep_last=3)
    for epoch in (1, 2, 3):
        manager.save(state(epoch, value=epoch))
    newest = tmp_path / "checkpoint-0003.pt"
    newest.write_bytes(newest.read_bytes()[:500])
    with caplog.at_level(logging.WARNING):
        latest = manager.latest()
    assert latest is not None
    assert latest[0].name == "checkpoint-0002.pt"
    assert float(latest[1]["model"]["weight"][0]) == 2
    assert "checkpoint-0003.pt is damaged" in caplog.text
    assert "going back to the checkpoint before" in caplog.text
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 4 checkpoints in .* can be read"):
        manager.latest()


@pytest.mark.parametrize("links", [True, False])
def test_last_and_best_with_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*arguments: Any) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", refuse)
    manager = CheckpointManager(tmp_path, keep_last=1)
    manager.save(state(1, value=1.0), is_best=True)
    manager.save(state(1, value=1.5), is_best=True)
    manager.save(state(2, value=2.0))
    assert value(tmp_path / "best.pt") == 1.5
    assert value(tmp_path / "last.pt") == value(tmp_path / "checkpoint-0002.pt") == 2.0
    assert (tmp_path / "last.pt").samefile(tmp_path / "checkpoint-0002.pt") is links
    assert sorted(os.listdir(tmp_path)) == ["best.pt", "checkpoint-0002.pt", "last.pt"]


def test_at_least_one_checkpoint_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last is 0"):
        CheckpointManager(tmp_path, keep_last=0)
