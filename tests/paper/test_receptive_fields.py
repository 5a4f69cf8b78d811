"""Fig. 5, with small networks in the places of the three."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.cli.main import main
from a2mamba.paper.page import page
from a2mamba.paper.receptive_fields import NETWORKS, Fig5, fig_5
from a2mamba.paper.report import Report
from a2mamba.paper.tables import find_table


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, network in (("A2Mamba-T", "a2mamba_test"), ("ConvNeXt-T", "convnext_atto")):
        monkeypatch.setitem(NETWORKS, name, network)
    monkeypatch.delitem(NETWORKS, "Swin-T")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_fields_of_files(small: None, photos: Path) -> None:
    figure = fig_5(sorted(photos.iterdir()))
    assert list(figure.fields) == ["A2Mamba-T", "ConvNeXt-T"]
    assert (figure.images, figure.weights) == ("2 images", "random weights")
    for field in figure.fields.values():
        assert field.shape == (224, 224)
        assert float(field.min()) >= 0
        assert float(field[112, 112]) > 0
    again = fig_5(sorted(photos.iterdir()))
    assert all(torch.equal(field, again.fields[name]) for name, field in figure.fields.items())


def test_without_files_photographs_are_cropped(small: None) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn has the photographs")
    assert fig_5().images == "8 crops of the two photographs in scikit-learn"


def test_command(small: None, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "fig5.png"
    assert main(["paper", "fig5", "--images", str(photos), "--plot", str(plot), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "Averaged over 2 images, random weights, 224 x 224." in out
    assert "receptive field of ConvNeXt-T" in err
    with Image.open(plot) as image:
        assert image.width > 2 * 224


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["II", "--images", "photos"], "--images and --pretrained are for fig5"),
        (["fig5", "--measure"], "fig5"),
        (["fig5", "--plot", "x.svg"], ".png"),
        (["fig5", "--images", "nowhere.png", "--device", "cpu"], "nowhere.png"),
    ],
)
def test_mistakes_are_one_line(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", *words]) == 2
    assert part in capsys.readouterr().err.splitlines()[-1]


def test_the_page_shows_it() -> None:
    field = torch.zeros(32, 32, dtype=torch.float64)
    field[12:21, 12:21] = 1
    figure = Fig5({"A2Mamba-T": field}, "2 images", "random weights")
    assert figure.sides() == {"A2Mamba-T": {"0.5": 7, "0.9": 9, "0.99": 9}}
    text = page([Report(find_table("I"), ())], fig_5=figure)
    assert 'id="fig5"' in text
    assert "2 images, random weights" in text
    assert "data:image/png;base64," in text
