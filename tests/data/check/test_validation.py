"""What `fit` looks at before it trains: the images that the first evaluation would stumble over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a2mamba.data import check_dataset, check_validation, recognize

from ..folders import SEGMENTATION, class_folders, table, write_mask
from ..helpers import error_line, write_image


def coco(root: Path, *, objects: bool = True) -> None:
    for split in ("train", "val"):
        images = [{"id": n, "file_name": f"{n}.jpg", "width": 30, "height": 20} for n in range(1, 5)]
        for n in range(1, 5):
            write_image(root / split / f"{n}.jpg", seed=n + 100 * (split == "val"), size=(20, 30))
        box = {"bbox": [1, 2, 10, 8], "area": 80, "iscrowd": 0}
        entries = [box | {"id": n, "image_id": n, "category_id": 1 + n % 2} for n in range(1, 5)]
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        content = {
            "images": images,
            "annotations": entries if objects or split == "train" else [],
            "categories": categories,
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["class folders", "table", "masks", "objects"])
def test_a_damaged_image_is_named_before_training(kind: str, tmp_path: Path) -> None:
    if kind == "class folders":
        class_folders(tmp_path, "train", "val")
        damaged = tmp_path / "val" / "cat" / "1.png"
    elif kind == "table":
        table(tmp_path)
        write_image(tmp_path / "val" / "v.png")
        (tmp_path / "val.csv").write_text("image,label\nv.png,cat\n")
        damaged = tmp_path / "val" / "v.png"
    elif kind == "masks":
        SEGMENTATION["images/masks"](tmp_path)
        damaged = tmp_path / "images" / "val" / "7.jpg"
    else:
        coco(tmp_path)
        damaged = tmp_path / "val" / "3.jpg"
    check_validation(recognize(tmp_path))
    damaged.write_bytes(damaged.read_bytes()[:60])
    error_line(lambda: check_validation(recognize(tmp_path)), "1 of ", str(damaged), "replace or remove")
    assert any(str(damaged) in problem for problem in check_dataset(tmp_path).problems)


def test_a_mask_that_does_not_fit_is_named_before_training(tmp_path: Path) -> None:
    SEGMENTATION["images/masks"](tmp_path)
    write_mask(tmp_path / "masks" / "val" / "8.png", 8, values=(0, 1, 9))
    error_line(lambda: check_validation(recognize(tmp_path)), "masks/val/8.png", "label 9 is out of range")
    assert "8.png" in check_dataset(tmp_path).problems[0]


def test_a_split_without_objects_is_refused(tmp_path: Path) -> None:
    coco(tmp_path, objects=False)
    error_line(lambda: check_validation(recognize(tmp_path)), "no object to evaluate on")


def test_progress_is_shown(tmp_path: Path) -> None:
    class_folders(tmp_path, "train", "val")
    calls: list[tuple[int, int, str]] = []
    check_validation(recognize(tmp_path), lambda *arguments: calls.append(arguments))
    assert calls == [(10, 10, "evaluation")]
