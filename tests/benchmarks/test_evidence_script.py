"""The benchmark of MASS against its parts: its images, its runs and its table; training is for the benchmark itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from a2mamba.backbone import check_name

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "evidence.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evidence_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_largest_digit_decides(script: ModuleType) -> None:
    """Digits that are squares of their own brightness: the class's covers the most."""
    inks = [[np.full((32, 32), 255, dtype=np.uint8)], [np.zeros((32, 32), dtype=np.uint8)]]
    shares = []
    for label in (0, 1):
        generator = np.random.default_rng(3)
        image = np.asarray(script.image_of(label, inks, generator))
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
    scenes = script.segmentation(tmp_path, "ablation_lass_test", 5)
    assert (scenes.model.backbone, scenes.schedule.iterations, scenes.test.scales) == ("ablation_lass_test", 5, (1.0,))


def test_the_table(script: ModuleType) -> None:
    rows = [
        {"task": "classification", "variant": variant, "score": score, "cpu_seconds": 120.0}
        for variant, score in (("MASS", 80.0), ("MASS", 82.0), ("LASS", 78.5))
    ]
    lines = script.table(rows).splitlines()
    assert lines[2:] == [
        "| MASS | 81.00 | 80.00, 82.00 | +0.00 | 2 | 2.0 |",
        "| LASS | 78.50 | 78.50, 78.50 | -2.50 | 1 | 2.0 |",
    ]
