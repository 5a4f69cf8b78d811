"""`a2mamba explain`, for networks of all tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .helpers import Trained, in_process


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photo{number}.png")
    return folder


def explain(*words: str | Path) -> dict:
    result = in_process("explain", *words, "--json")
    assert result.status == 0, result
    return result.json


def test_every_kind_of_a_trained_classifier(trained: Trained, photos: Path, tmp_path: Path) -> None:
    checkpoint = trained.folder / "checkpoints" / "best.pt"
    found = explain("--checkpoint", checkpoint, photos, "--out", tmp_path, "--point", "20", "12", "--class", "digit_3")
    assert found == json.loads((tmp_path / "explain.json").read_text())
    *each, whole = found["explanations"]
    assert [Path(section["image"]).name for section in each] == ["photo0.png", "photo1.png"]
    kinds = [[drawing["kind"] for drawing in section["drawings"]] for section in each]
    assert kinds == [["attention", "states", "grad-cam", "features"]] * 2
    assert each[0]["drawings"][2]["title"] == "What speaks for “digit_3”"
    assert [drawing["kind"] for drawing in whole["drawings"]] == ["receptive-field"]
    sides = whole["sides"][found["model"]]
    assert 1 <= sides["0.5"] <= sides["0.9"] <= sides["0.99"]
    page = (tmp_path / "explain.html").read_text()
    files = [drawing["file"] for section in found["explanations"] for drawing in section["drawings"]]
    assert page.count("data:image/png;base64,") == len(files) == len(set(files)) == 9
    for file in files:
        with Image.open(tmp_path / file) as image:
            assert np.asarray(image.convert("L")).std() > 5, "something is drawn"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("segman_v2_test", ["attention", "states", "grad-cam", "features"]),
        ("mask_rcnn_a2mamba_test", ["attention", "states", "features"]),
        ("segman_encoder_tiny", ["attention", "grad-cam", "features"]),
    ],
)
def test_networks_of_other_tasks(
    name: str, kinds: list[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = explain(name, "--random", photos / "photo0.png", "--out", tmp_path, "--kind", *kinds)
    assert [drawing["kind"] for drawing in found["explanations"][0]["drawings"]] == kinds


def test_what_a_network_lacks_is_left_out_unless_it_was_asked_for(photos: Path, tmp_path: Path) -> None:
    words = ("explain", "segman_encoder_tiny", "--random", photos / "photo0.png", "--out", tmp_path)
    result = in_process(*words)
    assert result.status == 0
    assert "states is left out: this network has no A2SSM" in result.err
    in_process(*words, "--kind", "states").refused("no A2SSM")


def test_a_network_of_timm_beside(photos: Path, tmp_path: Path) -> None:
    words = ("a2mamba_test", "--random", photos, "--out", tmp_path, "--kind", "receptive-field")
    found = explain(*words, "--beside", "convnext_atto")
    assert set(found["explanations"][-1]["sides"]) == {"a2mamba_test", "convnext_atto"}
    in_process("explain", *words, "--beside", "convnext_atom").refused("timm has no network", "did you mean")


def test_mistakes_are_one_line(photos: Path, tmp_path: Path) -> None:
    one = photos / "photo0.png"
    random = ("explain", "a2mamba_test", "--random", one, "--out", tmp_path)
    in_process(*random, "--point", "5000", "0").refused("--point 5000 0 is outside the image")
    in_process(*random, "--class", "hen").refused("no class 'hen'")
    in_process(*random, "--kind", "grad-cam", "--stage", "9").refused("--stage", "9")
    in_process(*random, "--kind", "states", "--point", "1", "1").refused("--point is for --kind attention")
    in_process("explain", "--random", one, "--out", tmp_path).refused("--random needs the name of a network")
    in_process("explain", "a2mamba_test", "--random", "--out", tmp_path).refused("an IMAGE is missing")
    in_process("explain", "a2mamba_tset", "--random", one, "--out", tmp_path).refused("a2mamba_test")
    in_process("explain", "a2mamba_test", "--random", tmp_path / "none.png", "--out", tmp_path).refused("none.png")
