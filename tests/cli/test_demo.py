"""The demonstration in its debug form, from nothing to the report."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from a2mamba.cli import demo
from a2mamba.cli.report import render
from a2mamba.engine.duration import duration

from .helpers import Result, in_new_process, in_process, start

STEPS = ["data", "train", "evaluate", "predict"]
BOTH = tuple(demo.SYSTEMS)


@dataclass(frozen=True)
class Demo:
    """A finished small demo: its folder, the systems on scenes, what the command said, and the report."""

    folder: Path
    systems: tuple[str, ...]
    result: Result
    report: dict[str, Any]
    page: str


@pytest.fixture(scope="module", params=[BOTH[:1], pytest.param(BOTH, marks=pytest.mark.slow)], ids="+".join)
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """One small demo, over the remains of an earlier one; tests only read it."""
    folder = tmp_path_factory.mktemp("demo") / "small"
    for name in (
        demo.MARKER,
        "notes.txt",
        "run/checkpoints/checkpoint-000007.pt",
        "predictions/old.png",
        "report.html",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    result = in_new_process("demo", folder, "--small", "--overwrite", "--tasks", *request.param, "--device", "cpu")
    assert result.status == 0, result
    text = (folder / "report.html").read_text(encoding="utf-8")
    return Demo(folder, request.param, result, json.loads((folder / "report.json").read_text(encoding="utf-8")), text)


def test_everything_is_there_and_what_was_old_is_gone(small: Demo) -> None:
    found = {entry.name for entry in small.folder.iterdir()}
    absent = {f"{demo.SYSTEMS[task].recipe}{end}" for task in set(BOTH) - {*small.systems} for end in ("", "-images")}
    assert found == {demo.MARKER, demo.DATA, "notes.txt", *demo.WRITTEN} - absent
    assert (small.folder / "notes.txt").read_text() == "old"
    assert not [*small.folder.rglob("old.png"), *small.folder.rglob("*-000007.pt")]
    assert (small.folder / "run/checkpoints/best.pt").stat().st_size > 100_000
    assert len(list((small.folder / "predictions").glob("*.png"))) == 359
    assert not list(small.folder.rglob("*.tmp"))


def test_progress_is_on_stderr_and_the_result_on_stdout(small: Demo) -> None:
    assert small.result.out.startswith(f"top-1 {small.report['top1']:.2f} % of 359")
    assert small.result.out.count("\n") == 1
    announced = [line[:5] for line in small.result.err.splitlines() if re.match(r"\[\d/", line)]
    steps = len(STEPS) + 2 * len(small.systems)
    assert announced == [f"[{i}/{steps}]" for i in range(1, steps + 1)]
    assert "epoch 2/2" in small.result.err


def test_the_report_has_what_the_evaluation_process_said(small: Demo) -> None:
    report = small.report
    data, checkpoint = small.folder / "data/imagenet", small.folder / "run/checkpoints/best.pt"
    again = in_process("eval", "digits", "--checkpoint", checkpoint, f"data.root={data}", "--json").json
    assert report["top1"] == report["evaluation"]["top1"] == pytest.approx(again["top1"], abs=1e-9)
    assert report["top5"] == report["evaluation"]["top5"] == pytest.approx(again["top5"], abs=1e-9)
    assert report["evaluation"]["loss"] == pytest.approx(again["loss"], rel=1e-4)
    matrix = report["confusion"]["matrix"]
    right = sum(matrix[i][i] for i in range(10))
    assert sum(map(sum, matrix)) == 359
    assert report["top1"] == pytest.approx(100 * right / 359)
    assert len(report["predictions"]) == 359
    # A third process, with one image a batch: rounding may turn a tie.
    assert sum(p["right"] for p in report["predictions"]) == pytest.approx(right, abs=2)
    assert report["predictions"][0]["true"] == "digit_0"


def test_the_report_says_how_it_was_made(small: Demo) -> None:
    report = small.report
    assert (report["small"], report["passed"], report["target_top1"]) == (True, None, 97)
    scene_steps = [f"{verb} {task}" for task in small.systems for verb in ("train", "evaluate")]
    assert [step["name"] for step in report["steps"]] == [*STEPS, *scene_steps]
    assert all(step["seconds"] > 0 and step["command"].startswith("a2mamba ") for step in report["steps"])
    # All figures, nine at most, are rounded to hundredths, by up to half of one each.
    assert sum(step["seconds"] for step in report["steps"]) <= report["seconds"] + 0.045 + 1e-9
    assert [row["epoch"] for row in report["training"]["history"]] == [1, 2]
    assert {"loss", "top1", "ema_top1", "lr"} <= set(report["training"]["history"][-1])
    assert report["training"]["best"]["metric"] == "ema_top1"
    assert report["model"]["name"] == report["run"]["config"]["model"]["name"] == "a2mamba_test"
    assert report["model"]["parameters"] > 50_000
    assert report["model"]["macs"] > 500_000
    assert (report["machine"]["device"], report["machine"]["threads"]) == ("cpu", "1")
    assert set(demo.PACKAGES) <= set(report["versions"])


def test_the_report_names_no_place_of_this_machine(small: Demo) -> None:
    for text in (json.dumps(small.report), small.page, (small.folder / "predictions/predictions.json").read_text()):
        assert str(small.folder) not in text
        assert sys.prefix not in text


def test_the_scenes_are_told(small: Demo) -> None:
    """Each system's numbers are those of its evaluation process, and its images are in the page."""
    assert tuple(small.report["scenes"]) == small.systems
    for task, scene in small.report["scenes"].items():
        system = demo.SYSTEMS[task]
        assert set(system.targets) <= scene["metrics"].keys()
        assert scene["images"] == 50
        assert len(scene["classes"]) == (11 if task == "segmentation" else 10)
        for name in scene["drawings"]:
            assert (small.folder / name).stat().st_size > 5_000
        assert scene["run"]["recipe"] == system.recipe
        words = ("eval", system.recipe, "--checkpoint", small.folder / system.recipe / "checkpoints/best.pt", "--json")
        again = in_process(*words, f"data.root={small.folder / 'data' / system.data}").json
        for name, value in scene["metrics"].items():
            assert again[name] == pytest.approx(value, abs=1e-6)
        assert f"{scene['metrics'][next(iter(system.targets))]:.2f} %" in small.page


def test_scenes_below_their_target_are_a_failure(small: Demo) -> None:
    changed = {"small": False, "passed": False}
    page = render(small.folder, {**small.report, **changed})
    targets = ("mean IoU 65 %", "box AP at IoU 0.5 50 %, mask AP at IoU 0.5 45 %")
    for text in targets[: len(small.systems)]:
        assert f"below the target: {text}" in page
    for task, scene in small.report["scenes"].items():
        page = render(small.folder, {**small.report, **changed, "scenes": {task: {**scene, "passed": True}}})
        assert "above the target: " in page


class _Page(HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def close(self) -> None:
        super().close()
        assert not self._open


def parsed(text: str) -> list[tuple[str, dict[str, str | None]]]:
    page = _Page()
    page.feed(text)
    page.close()
    return page.tags


def test_the_page_is_whole_by_itself(small: Demo) -> None:
    tags = parsed(small.page)
    assert len(small.page) < 6_000_000
    assert not re.search(r"https?://|url\(|@import", small.page)
    assert not {"script", "link", "iframe", "object"} & {name for name, _ in tags}
    images = [attributes for name, attributes in tags if name == "img"]
    assert len(images) >= 4 + sum(len(demo.SYSTEMS[task].images) for task in small.systems)
    for attributes in images:
        assert (attributes["src"] or "").startswith("data:image/png;base64,")
        assert re.search("digit|scenes", attributes["alt"] or "")
    drawings = [attributes for name, attributes in tags if name == "svg" and attributes.get("role") == "img"]
    curves = 3 + sum(len(demo.SYSTEMS[task].targets) + 1 for task in small.systems)
    assert [bool(attributes["aria-label"]) for attributes in drawings] == [True] * curves


def test_the_page_shows_the_numbers(small: Demo) -> None:
    report = small.report
    assert f"{report['top1']:.2f} %" in small.page
    assert "debug form" in small.page
    for step in report["steps"]:
        assert step["command"] in small.page
    assert small.page.count("✗ says") == min(6, sum(not p["right"] for p in report["predictions"]))


def test_the_page_of_scenes_that_two_processes_trained(small: Demo) -> None:
    """As the full form's: the command that took the time begins with torchrun."""
    launch = "torchrun --standalone --nproc-per-node 2 -m a2mamba.cli.main train "
    steps = [
        {**step, "command": step["command"].replace("a2mamba train ", launch), "seconds": 3661.0}
        for step in small.report["steps"]
    ]
    assert sum(step["command"].startswith("torchrun") for step in steps) == 1 + len(small.systems)
    page = render(small.folder, {**small.report, "steps": steps})
    assert page.count(duration(3661.0)) >= len(small.systems)


@pytest.mark.parametrize("passed", [True, False])
def test_the_page_without_any_mistake_and_with_one_epoch(small: Demo, passed: bool) -> None:
    """What a perfect model, or the shortest run, would give."""
    right = [{**p, "right": True} for p in small.report["predictions"]]
    history = small.report["training"]["history"][:1]
    changed = {"small": False, "passed": passed, "predictions": right, "training": {"best": None, "history": history}}
    changed["scenes"] = {}
    page = render(small.folder, {**small.report, **changed})
    parsed(page)
    assert ("above the target" in page, "below the target" in page) == (passed, not passed)
    assert "no mistakes" in page


def test_a_result_below_the_target_is_a_failure_with_a_report(
    small: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, target = small.report, tmp_path / "full"
    evaluation = {**report["evaluation"], "top1": 96.5}

    def step(self: demo._Steps, name: str, command: Sequence[str], **_options: Any) -> str:
        self.done.append({"name": name, "command": f"a2mamba {command[0]}", "seconds": 1.0})
        if name == "data":
            shutil.copytree(small.folder, target, dirs_exist_ok=True)
        return json.dumps({"data": report["data"], "train": report["training"]}.get(name, evaluation))

    monkeypatch.setattr(demo._Steps, "__call__", step)
    result = in_process("demo", target, "--tasks")
    assert result.status == 1
    assert re.fullmatch(r"a2mamba demo: top-1 is \S+ %, target 97 %; see .*report\.html\n", result.err)
    written = json.loads((target / "report.json").read_text())
    assert (written["small"], written["passed"]) == (False, False)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    in_process("demo", tmp_path, "--small").refused(str(tmp_path), "not empty", "thesis.txt", "--overwrite")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwriting_spares_what_no_demo_wrote(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    in_process("demo", tmp_path, "--small", "--overwrite").refused(str(tmp_path), "run", "no demo wrote")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    in_process("demo", tmp_path / "file").refused("is a file")


def test_a_step_that_fails_says_why_once(tmp_path: Path) -> None:
    """Its exit status becomes that of the whole; somebody's folder `data` stays as it is."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    result = in_new_process("demo", tmp_path, "--small", "--overwrite")
    assert (result.status, result.out) == (2, "")
    announced, reason = result.err.splitlines()
    assert announced.startswith("[1/6] a2mamba data demo data")
    assert reason.startswith("a2mamba data: ")
    assert "mine.txt" in reason
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="no torchrun over gloo")
def test_two_processes_share_a_step(tmp_path: Path, digits: Path) -> None:
    steps = demo._Steps(tmp_path, count=1)
    command = ["train", "digits", f"data.root={digits}", "--small", "--out", "run", "--json", "--device", "cpu"]
    printed = json.loads(steps("train", command, processes=2))  # one of the two prints
    assert printed["best"]["metric"] == "ema_top1"
    (done,) = steps.done
    assert done["command"].startswith("torchrun --standalone --nproc-per-node 2 -m a2mamba.cli.main train digits ")
    assert (tmp_path / "run/checkpoints/best.pt").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_too(tmp_path: Path, number: signal.Signals) -> None:
    process = start("demo", tmp_path / "demo", "--small")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("[1/6]")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)  # the step has the same stderr: this waits for its end
    assert process.returncode == 130
    assert err.splitlines()[-1] == "a2mamba: stopped"
    assert not (tmp_path / "demo" / "data").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs sh")
def test_a_step_that_is_killed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # `sh -m a2mamba.cli.main train` is a script of that name, where `python -m ...` is our module.
    (tmp_path / "a2mamba.cli.main").write_text("kill -KILL $$")
    monkeypatch.setattr(sys, "executable", shutil.which("sh"))
    with pytest.raises(demo._StepError) as caught:
        demo._Steps(tmp_path, count=1)("train", ["train"])
    assert caught.value.status == 137
    assert "'train' was ended by SIGKILL" in capsys.readouterr().err


def test_threads_are_the_users_choice() -> None:
    assert demo._environment({})["OMP_NUM_THREADS"] == "1"
    assert (
        demo._environment({"OMP_NUM_THREADS": "7", "HOME": "/h"}).items()
        >= {"OMP_NUM_THREADS": "7", "HOME": "/h"}.items()
    )
