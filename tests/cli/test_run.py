"""The classifier's way through the commands: train, stop, resume, evaluate and predict."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import a2mamba
from a2mamba.cli.main import main

from .conftest import EPOCHS, VAL
from .helpers import Trained, content, in_new_process, in_process, start


def test_training_says_results_on_stdout_and_progress_on_stderr(trained: Trained) -> None:
    result = trained.result
    assert set(result.json) == {"output", "last", "best"}
    last, best = result.json["last"], result.json["best"]
    assert last["epoch"] == EPOCHS
    assert {"loss", "top1", "top5", "ema_top1", "eval_loss", "lr"} <= last.keys()
    assert best["metric"] == "ema_top1"
    assert best["value"] >= last["ema_top1"]
    lines = [line for line in result.err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == [f"{i}/{EPOCHS}" for i in range(1, EPOCHS + 1)]
    assert f"loss {last['loss']:.4f}" in lines[-1]


def test_training_leaves_a_run_that_explains_itself(trained: Trained, digits: Path) -> None:
    run = json.loads((trained.folder / "run.json").read_text())
    assert run["recipe"] == "digits"
    assert run["config"]["model"]["name"] == "a2mamba_test"
    assert run["config"]["data"]["root"] == str(digits)
    assert run["classes"] == [f"digit_{i}" for i in range(10)]
    rows = (trained.folder / "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + EPOCHS
    assert {"best.pt", "last.pt"} <= {file.name for file in (trained.folder / "checkpoints").iterdir()}


def test_evaluation_in_a_second_process_finds_the_same_number(trained: Trained, workplace: Path) -> None:
    result = in_new_process("eval", "digits", "--checkpoint", trained.best, "--confusion", "confusion.json", "--json")
    assert result.status == 0, result
    best = trained.result.json["best"]
    assert result.json["top1"] == best["value"]
    assert 0 <= result.json["top1"] <= result.json["top5"] <= 100
    assert result.json["images"] == 10 * VAL
    assert "EMA weights" in result.err
    assert result.err.count("\n") == 1
    confusion = json.loads((workplace / "confusion.json").read_text())
    right = sum(confusion["matrix"][i][i] for i in range(10))
    assert 100 * right / (10 * VAL) == pytest.approx(best["value"])
    assert content(workplace).keys() == {str(workplace / "confusion.json")}


def test_the_last_checkpoint_gives_the_last_rows_numbers(trained: Trained) -> None:
    found = in_process("eval", "digits", "--checkpoint", trained.last, "--json").json
    last = trained.result.json["last"]
    assert (found["top1"], found["top5"]) == (last["ema_top1"], last["ema_top5"])


def test_evaluation_on_other_data(trained: Trained, demo_data: Path) -> None:
    result = in_process("eval", "digits", "--checkpoint", trained.best, f"data.root={demo_data / 'imagenet'}")
    assert result.status == 0
    assert "top1" in result.out
    assert "top5" in result.out


def test_prediction_writes_what_it_says(trained: Trained, digits: Path, tmp_path: Path) -> None:
    photos = [next((digits / "val" / f"digit_{i}").iterdir()) for i in (3, 8)]
    # The same file name twice, and a name that is not ASCII and looks like markup.
    other = tmp_path / "größe[red].png"
    Image.new("L", (7, 300), 90).save(other)
    photos.append(other)
    out = tmp_path / "out"
    result = in_process(
        "predict", "a2mamba_test", photos[0], "--checkpoint", trained.best, "--out", out, "--json", *photos[1:]
    )
    assert result.status == 0, result
    written = json.loads((out / "predictions.json").read_text())
    assert result.json == written
    assert [p["image"] for p in written["predictions"]] == [str(photo) for photo in photos]
    for prediction in written["predictions"]:
        chances = [entry["probability"] for entry in prediction["top"]]
        assert len(chances) == 5
        assert chances == sorted(chances, reverse=True)
        assert 0 < sum(chances) <= 1.00001
        assert all(entry["class"] == f"digit_{entry['index']}" for entry in prediction["top"])
    panels = sorted(out.glob("*.png"))
    assert [panel.name for panel in panels] == [f"{i:04d}-{p.stem}.png" for i, p in enumerate(photos)]
    for panel in panels:
        with Image.open(panel) as image:
            image.load()
            assert image.width > 500
    assert len(list(out.iterdir())) == len(photos) + 1


def test_predictions_are_the_models_own(trained: Trained, digits: Path, tmp_path: Path) -> None:
    """The images of a class, through the same preprocessing as evaluation: as many right as the metric says."""
    photos = sorted((digits / "val").glob("*/*.png"))
    folder = tmp_path / "out"
    words = ("--checkpoint", str(trained.best), "--out", str(folder), "--top", "1")
    assert in_process("predict", "a2mamba_test", *words, *photos).status == 0
    predictions = json.loads((folder / "predictions.json").read_text())["predictions"]
    right = sum(Path(p["image"]).parent.name == p["top"][0]["class"] for p in predictions)
    assert len(predictions) == 10 * VAL
    assert 100 * right / len(predictions) == pytest.approx(trained.result.json["best"]["value"])


def test_prediction_with_plain_weights_and_names(digits: Path, tmp_path: Path) -> None:
    torch.save(a2mamba.create_model("a2mamba_test", num_classes=3).state_dict(), tmp_path / "three.pth")
    (tmp_path / "names.txt").write_text("cat\ndog\nowl\n\n", encoding="utf-8")
    photo = next((digits / "val" / "digit_0").iterdir())
    words = ("predict", "a2mamba_test", photo, "--checkpoint", tmp_path / "three.pth", "--out", tmp_path / "out")
    found = in_process(*words, "--classes", tmp_path / "names.txt", "--json").json
    assert {entry["class"] for entry in found["predictions"][0]["top"]} == {"cat", "dog", "owl"}
    assert "class 2" in in_process(*words, "--json").out


def test_the_checkpoint_says_model_and_recipe(trained: Trained, digits: Path, tmp_path: Path) -> None:
    """Neither is typed again; folders and globs are taken; numbers are those of training."""
    found = in_process("eval", "--checkpoint", trained.best, "--json")
    assert found.status == 0, found
    assert found.json["top1"] == trained.result.json["best"]["value"]
    words = ("predict", "--checkpoint", trained.best, "--out", tmp_path / "out", "--json", "--batch-size", "4")
    found = in_process(*words, digits / "val" / "digit_0", f"{digits}/val/digit_1/*.png")
    assert found.status == 0, found
    expected = [str(path) for i in (0, 1) for path in sorted((digits / "val" / f"digit_{i}").iterdir())]
    assert [entry["image"] for entry in found.json["predictions"]] == expected
    assert len(list((tmp_path / "out").glob("*.png"))) == 2 * VAL
    torch.save(torch.load(trained.best, weights_only=True)["ema"], tmp_path / "alone.pth")
    in_process("eval", "--checkpoint", tmp_path / "alone.pth").refused("alone.pth", "name the RECIPE")


def test_one_bad_image_costs_no_other(trained: Trained, digits: Path, tmp_path: Path) -> None:
    photos = sorted((digits / "val" / "digit_4").iterdir())[:2]
    (tmp_path / "text.png").write_text("no image")
    out = tmp_path / "out"
    words = ("predict", "--checkpoint", trained.best, "--out", out, photos[0], tmp_path / "text.png", photos[1])
    found = in_process(*words, "--json")
    assert found.status == 2
    assert found.err.splitlines()[-1].startswith("a2mamba predict: cannot decode image")
    assert "text.png" in found.err
    assert "Traceback" not in found.err
    assert [entry["image"] for entry in found.json["predictions"]] == [str(photo) for photo in photos]
    assert json.loads((out / "predictions.json").read_text()) == found.json
    assert {path.name for path in out.iterdir()} == {
        "predictions.json",
        f"0000-{photos[0].stem}.png",
        f"0002-{photos[1].stem}.png",
    }


def test_evaluation_has_the_precision_of_training(small_run: tuple[str, ...], tmp_path: Path) -> None:
    """Also where that is not float32: the loss of the same images is the same number."""
    words = ("precision=bfloat16", "schedule.epochs=1", "schedule.warmup_epochs=0", "--out", tmp_path / "run")
    trained = in_process(*small_run, *words)
    assert trained.status == 0, trained
    found = in_process("eval", "--checkpoint", tmp_path / "run" / "checkpoints" / "last.pt", "--json").json
    assert found["loss"] == pytest.approx(trained.json["last"]["ema_eval_loss"], rel=1e-9)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.pt"
    exact = in_process("eval", "--checkpoint", checkpoint, "precision=float32", "--json").json
    assert exact["loss"] != found["loss"]


def test_python_runs_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "a2mamba", "--version"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("a2mamba ")


def _weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint, weights_only=True)
    tensors = {f"{part}.{name}": tensor for part in ("model", "ema") for name, tensor in state[part].items()}
    for number, moments in state["optimizer"]["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    return tensors


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    trained: Trained, small_run: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with start(*small_run, "--out", folder) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith(f"epoch 1/{EPOCHS}"), first + process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert out == ""
    assert err.splitlines()[-1].startswith("a2mamba: stopped: received SIGINT")
    assert "Traceback" not in err
    stopped = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["progress"]
    assert 1 <= stopped["epoch"] < EPOCHS

    resumed = in_process(*small_run, "--out", folder, "--resume")
    assert resumed.status == 0, resumed
    assert f"epoch 1/{EPOCHS}" not in resumed.err
    expected, found = _weights(trained.last), _weights(folder / "checkpoints" / "last.pt")
    assert expected.keys() == found.keys()
    assert len(expected) > 500
    different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert different == []
    timing = ("seconds", "images_per_second")
    rows = [{k: v for k, v in r.json["last"].items() if k not in timing} for r in (trained.result, resumed)]
    assert rows[0] == rows[1]
    assert resumed.json["best"] == trained.result.json["best"]


def test_resuming_a_finished_run_changes_nothing(trained: Trained, small_run: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    before = {name.removeprefix(str(folder)): data for name, data in content(folder).items()}
    result = in_process(*small_run, "--out", folder, "--resume")
    assert result.status == 0
    assert result.json["last"] == trained.result.json["last"]
    assert {name.removeprefix(str(folder)): data for name, data in content(folder).items()} == before


def test_keys_explains_every_key(workplace: Path) -> None:
    result = in_process("train", "digits", "optimizer.lr=0.123", "--keys")
    assert (result.status, result.err) == (0, "")
    for part in ("optimizer.lr", "0.123", "schedule.epochs", "data.root", "model.name", "peak learning rate"):
        assert part in result.out
    assert content(workplace) == {}


def test_debug_shows_the_traceback() -> None:
    """Python shows it where the exception leaves the program."""
    for words in (["train", "digts", "--debug"], ["eval", "--checkpoint", "nowhere.pt", "--debug"]):
        with pytest.raises(ValueError, match=r"unknown recipe 'digts'|nowhere\.pt: no such file"):
            main(words)


def test_a_failed_training_is_status_1(small_run: tuple[str, ...], workplace: Path) -> None:
    """A rate so high that the loss overflows: no mistake in the words, and no traceback."""
    result = in_process(*small_run, "optimizer.lr=1e30", "optimizer.clip_grad_norm=none")
    assert result.status == 1
    assert result.out == ""
    assert "a2mamba train: " in result.err
    assert "the loss is not finite at step" in result.err
    assert "Traceback" not in result.err
