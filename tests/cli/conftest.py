"""One set of demo data and one trained checkpoint for all tests of commands, and how to call a command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from .helpers import Trained, in_process

TRAIN, VAL = 24, 6
EPOCHS = 3


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole embedded data, as `a2mamba data demo` writes it; tests only read it."""
    root = tmp_path_factory.mktemp("cli") / "demo"
    result = in_process("data", "demo", root, "--small", "--json")
    assert result.status == 0
    assert result.json["imagenet"] == {"train": 1438, "val": 359}
    assert result.json["root"] == str(root)
    return root


@pytest.fixture(scope="session")
def digits(demo_data: Path) -> Path:
    """A small part of the digits, in ImageNet's layout; tests only read it."""
    root = demo_data.parent / "digits"
    for split, count in (("train", TRAIN), ("val", VAL)):
        for folder in (demo_data / "imagenet" / split).iterdir():
            (root / split / folder.name).mkdir(parents=True)
            for image in sorted(folder.iterdir())[:count]:
                shutil.copy(image, root / split / folder.name)
    return root


@pytest.fixture(scope="session")
def small_run(digits: Path) -> tuple[str, ...]:
    """The words of the small run, without its folder."""
    return ("train", "digits", "--small", f"data.root={digits}", f"schedule.epochs={EPOCHS}", "--json")


@pytest.fixture(scope="session")
def trained(small_run: tuple[str, ...], digits: Path) -> Trained:
    """The small run, finished; tests only read it."""
    folder = digits.parent / "trained"
    result = in_process(*small_run, "--out", folder)
    assert result.status == 0, result
    return Trained(folder, result)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "workplace"
    place.mkdir()
    monkeypatch.chdir(place)
    return place
