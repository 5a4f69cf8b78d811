from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from .helpers import content, in_process


def test_convert(tmp_path: Path) -> None:
    label = tmp_path / "gtFine" / "val" / "bonn" / "a_gtFine_labelIds.png"
    label.parent.mkdir(parents=True)
    Image.fromarray(np.array([[7, 0, 33]], dtype=np.uint8)).save(label)
    result = in_process("data", "convert", "cityscapes", tmp_path, "--json")
    assert (result.status, result.err) == (0, "")
    assert result.json == {"root": str(tmp_path), "layout": "cityscapes", "written": 1, "kept": 0}
    with Image.open(label.with_name("a_gtFine_labelTrainIds.png")) as file:
        assert np.asarray(file).tolist() == [[0, 255, 18]]
    result = in_process("data", "convert", "cityscapes", tmp_path)
    assert result.out == f"{tmp_path}: 0 label files written, 1 were there already\n"
    assert "1 label files written" in in_process("data", "convert", "cityscapes", tmp_path, "--overwrite").out


def test_convert_refuses(tmp_path: Path) -> None:
    in_process("data", "convert", "ade20k", tmp_path).refused("cityscapes", "coco-stuff")
    in_process("data", "convert", "coco-stuff", tmp_path / "none").refused(str(tmp_path / "none"), "does not exist")
    label = tmp_path / "annotations" / "val2017" / "1.png"
    label.parent.mkdir(parents=True)
    Image.new("RGB", (4, 4), (9, 0, 0)).save(label)
    before = content(tmp_path)
    in_process("data", "convert", "coco-stuff", tmp_path).refused(str(label), "colors")
    assert content(tmp_path) == before
