from __future__ import annotations

import json
import shutil
from pathlib import Path

from a2mamba.data import check_dataset

from ..helpers import write_image


def test_sound_data(tiny: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    report = check_dataset(tiny, progress=lambda *arguments: calls.append(arguments))
    assert report.problems == []
    assert report.layout == "class_folders"
    assert {name: split.classes for name, split in report.splits.items()} == {
        "train": {"cat": 5, "dog": 5},
        "val": {"cat": 3, "dog": 3},
    }
    assert "no problems" in report.summary()
    assert calls == [(10, 10, "train"), (6, 6, "val")]


def test_every_kind_of_problem_is_named(tiny: Path) -> None:
    shutil.copy(tiny / "train" / "cat" / "0.png", tiny / "val" / "cat" / "leak.png")
    shutil.copy(tiny / "train" / "cat" / "1.png", tiny / "train" / "cat" / "twin.png")  # one split: no leak
    for split in ("train", "val"):
        (tiny / split / "dog" / "zero.jpg").write_bytes(b"")  # equal, but no images
    (tiny / "val" / "dog" / "text.jpg").write_text("not found")
    whole = tiny / "train" / "dog" / "0.png"
    whole.write_bytes(whole.read_bytes()[:200])
    (tiny / "train" / "owl").mkdir()
    write_image(tiny / "val" / "loose.png")
    report = check_dataset(tiny)
    problems = "\n".join(report.problems)
    assert len(report.problems) == 6
    assert "train: 1 class folders without images: owl" in problems
    assert "train: 2 undecodable images" in problems
    assert "val: 2 undecodable images" in problems
    assert f"{tiny / 'val' / 'dog' / 'zero.jpg'} (the file is empty)" in problems
    assert "val: 1 images outside of class folders" in problems
    assert "val: no images of 1 of 3 classes: owl" in problems
    assert "1 images lie in more than one split" in problems
    assert report.duplicates == [[str(tiny / "train" / "cat" / "0.png"), str(tiny / "val" / "cat" / "leak.png")]]
    assert set(report.splits["train"].undecodable) == {str(whole), str(tiny / "train" / "dog" / "zero.jpg")}
    assert report.splits["val"].undecodable[str(tiny / "val" / "dog" / "zero.jpg")] == "the file is empty"
    assert report.splits["train"].classes == {"cat": 6, "dog": 6, "owl": 0}
    assert all(problem in report.summary() for problem in report.problems)
    assert all("\n" not in problem for problem in report.problems)
    assert json.loads(json.dumps(report.to_dict()))["problems"] == report.problems


def test_an_image_in_two_classes_is_reported(tiny: Path) -> None:
    one, other = tiny / "train" / "cat" / "0.png", tiny / "train" / "dog" / "copy.png"
    shutil.copy(one, other)
    assert check_dataset(tiny).problems == [f"train: 1 images lie in more than one class: {one} = {other}"]


def test_split_without_images_is_reported(tiny: Path) -> None:
    for file in (tiny / "val").rglob("*.png"):
        file.unlink()
    report = check_dataset(tiny)
    assert report.splits["val"].classes == {"cat": 0, "dog": 0}
    assert report.problems[0] == "val: 2 class folders without images: cat, dog"


def test_root_with_class_folders(tiny: Path) -> None:
    report = check_dataset(tiny / "train")
    assert list(report.splits) == ["."]
    assert report.problems == []
