from __future__ import annotations

from pathlib import Path

import pytest

from a2mamba.data import write_demo

from .helpers import write_image


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo data with few scenes; tests only read it."""
    root = tmp_path_factory.mktemp("demo") / "data"
    write_demo(root, segmentation_scenes=24, train_scenes=24, val_scenes=12)
    return root


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An ImageNet layout: two classes, five training and three validation images each, every one different."""
    for split, count in (("train", 5), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                seed = (split == "val") * 100 + label * 10 + number
                write_image(tmp_path / "tiny" / split / name / f"{number}.png", seed=seed)
    return tmp_path / "tiny"
