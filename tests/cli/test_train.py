"""What `a2mamba train` offers beside training: dry runs, the paper's form, resuming, a time limit, curves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from a2mamba.cli.summary import render, write_summary

from .conftest import EPOCHS
from .helpers import Trained, content, in_process


def test_dry_run_as_json(digits: Path, workplace: Path) -> None:
    result = in_process("train", "in1k_tiny", "--small", f"data.root={digits}", "--dry-run", "--json")
    assert result.status == 0, result
    found = result.json
    assert found["recipe"] == "in1k_tiny"
    assert found["config"]["model"]["name"] == "a2mamba_test"
    assert (found["samples"], found["steps_per_epoch"], found["steps"]) == (240, 7, 14)
    assert (found["micro_batch"], found["accumulate"]) == (32, 1)
    assert {group["name"] for group in found["groups"]} == {"decay", "no_decay"}
    assert found["seconds_per_step"] > 0
    assert found["hours"] == pytest.approx(found["seconds_per_step"] * 14 / 3600)
    assert content(workplace) == {}


def test_dry_run_as_tables(digits: Path, workplace: Path) -> None:
    result = in_process("train", "digits", "--small", f"data.root={digits}", "--dry-run", "micro_batch=16")
    assert result.status == 0, result
    for part in ("optimizer.lr", "no_decay", "weight decay", "32 = 1 processes x 2 passes x 16", "7 an epoch", "GiB"):
        assert part in result.out, part
    assert content(workplace) == {}


def test_dry_run_without_data_says_what_it_assumes(workplace: Path) -> None:
    result = in_process("train", "in1k_nano", "--small", "data.root=absent", "--dry-run", "--json")
    assert result.status == 0, result
    assert result.json["samples"] == 1_281_167
    (note,) = result.json["notes"]
    assert "absent" in note
    assert content(workplace) == {}


def test_the_papers_form() -> None:
    def drop_path(*words: str) -> str:
        result = in_process("train", "in1k_nano", "--keys", *words)
        assert result.status == 0, result
        (row,) = [line for line in result.out.splitlines() if " model.drop_path_rate " in line]
        return row

    assert " 0.0 " in drop_path()
    assert " 0.05 " in drop_path("--paper")
    in_process("train", "digits", "--paper").refused("'digits' has one form only", "in1k_nano")


def test_the_rate_follows_the_batch_and_says_so(digits: Path) -> None:
    result = in_process(
        "train", "digits", "--small", "--dry-run", f"data.root={digits}", "data.batch_size=16", "--json"
    )
    assert "optimizer.lr 0.002 -> 0.001" in result.err
    assert result.json["config"]["optimizer"]["lr"] == 0.001


def test_resume_auto_begins_and_goes_on(digits: Path, tmp_path: Path) -> None:
    words = ("train", "digits", "--small", "schedule.warmup_epochs=0", "--out", tmp_path / "run", "--json")
    more = ("--resume", "auto", f"data.root={digits}", "schedule.epochs=1")
    first = in_process(*words, *more)
    assert first.status == 0, first
    assert "epoch 1/1" in first.err
    again = in_process(*words, *more)
    assert again.status == 0, again
    assert "epoch 1/1" not in again.err
    assert again.json["last"] == first.json["last"]
    # A second run in the same folder is still refused without it.
    in_process(*words, *more[2:]).refused("another run")


@pytest.mark.parametrize("resume", [("--resume", "auto"), ("--resume=auto",)])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_resume_auto_stands_anywhere(
    resume: tuple[str, ...], place: int, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []

    def remember(run: object, output: Path, *, resume: str, **_: object) -> None:
        modes.append(resume)
        raise ValueError("far enough")

    monkeypatch.setattr("a2mamba.recipes.train", remember)
    words: list[str] = ["digits", "--small", f"data.root={digits}", "seed=2"]
    in_process("train", *words[:place], *resume, *words[place:], "--out", tmp_path).refused("far enough")
    in_process("train", "--resume", *words, "--out", tmp_path).refused("far enough")
    in_process("train", *words, "--out", tmp_path).refused("far enough")
    assert modes == ["auto", "require", "never"]
    in_process("train", *words, "--resume=maybe").refused("--resume", "auto")


def test_resume_needs_something_to_resume(digits: Path, tmp_path: Path) -> None:
    words = ("train", "digits", "--small", f"data.root={digits}", "--out", tmp_path / "run")
    in_process(*words, "--resume").refused("nothing to resume")
    # The word is taken for nothing else.
    in_process(*words, "auto").refused("key=value", "'auto'")


def test_a_time_limit_saves_and_says_so(digits: Path, tmp_path: Path) -> None:
    words = ("train", "digits", "--small", f"data.root={digits}", "--out", tmp_path / "run", "--json")
    stopped = in_process(*words, "--max-minutes", "0.00001")
    assert stopped.status == 75
    assert "time limit" in stopped.err
    assert list((tmp_path / "run" / "checkpoints").glob("checkpoint-0000-*.pt"))
    resumed = in_process(*words, "--resume", "auto")
    assert resumed.status == 0, resumed
    assert resumed.json["last"]["epoch"] == 2
    in_process(*words, "--max-minutes", "0").refused("time limit")


def test_wandb_has_to_be_there(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    words = ("train", "digits", "--small", f"data.root={digits}", "--out", tmp_path / "run")
    in_process(*words, "wandb=digits").refused("wandb is not installed", "wandb=none")


# ------------------------------------------------------------------------------------------------------- summary.html


def test_a_run_has_its_page(trained: Trained) -> None:
    text = (trained.folder / "summary.html").read_text(encoding="utf-8")
    for part in ("top1 of the averaged model", "eval loss", "learning rate", "images per second", "data.batch_size"):
        assert part in text, part
    assert not re.findall(r"https?://|<script|<link|@import", text)
    accuracy = text[text.index("<figcaption>top1") : text.index("<figcaption>top5")]
    assert accuracy.count("<circle") == 2 * EPOCHS
    assert f"{trained.result.json['best']['value']:.2f}" in text


def test_the_page_bears_what_a_run_may_hold() -> None:
    """Losses that are not finite, epochs without an evaluation, names that look like markup."""
    run = {
        "task": "x",
        "recipe": "<b>",
        "config": {"model": {"name": "<i>"}, "data": {"root": "a&b"}},
        "classes": ["c"],
    }
    history = [
        {"epoch": 1.0, "step": 5.0, "lr": 1e-3, "loss": float("nan"), "images_per_second": 3.0, "seconds": 1.0},
        {"epoch": 2.0, "step": 10.0, "lr": 0.0, "loss": 2.5, "miou": 0.0, "images_per_second": 3.0, "seconds": 1.0},
    ]
    text = render(run, history)
    assert "<b>:" not in text
    assert "&lt;b&gt;" in text
    assert "a&amp;b" in text
    assert "nan" not in text.replace("nano", "")
    assert "<figcaption>training loss" in text
    assert "<figcaption>held-out loss" not in text


def test_no_page_without_rows(tmp_path: Path) -> None:
    assert write_summary(tmp_path) is None
    (tmp_path / "metrics.csv").write_text("epoch,loss\n")
    (tmp_path / "run.json").write_text(json.dumps({}))
    assert write_summary(tmp_path) is None
    assert not (tmp_path / "summary.html").exists()


def test_the_page_names_what_could_not_be_decoded_and_altered_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,lr,loss,seconds,undecodable_images\n1,5,0.1,2.5,3,1\n")
    run = {"task": "x", "recipe": "r", "config": {"model": {"name": "m"}}, "classes": ["c"]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "quarantine.json").write_text(json.dumps({"quarantined": {"<a>.png": "truncated"}}))
    path = write_summary(tmp_path)
    assert path is not None
    text = path.read_text(encoding="utf-8")
    assert "1 training images could not be decoded" in text
    assert "<code>&lt;a&gt;.png</code></th><td>truncated" in text
    for name, damaged in (
        ("quarantine.json", '{"quarantined": 3}'),
        ("quarantine.json", "[" * 100_000),
        ("run.json", "{}"),
        ("run.json", "[1]"),
        ("metrics.csv", "epoch\nlast\n"),
    ):
        whole = (tmp_path / name).read_text()
        (tmp_path / name).write_text(damaged)
        with pytest.raises(ValueError, match=re.escape(name)) as error:
            write_summary(tmp_path)
        (tmp_path / name).write_text(whole)
        assert "\n" not in str(error.value)
