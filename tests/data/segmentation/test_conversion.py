from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from a2mamba.data import (
    SegmentationData,
    check_dataset,
    convert_labels,
    read_labels,
    segmentation_folder,
)

from ..helpers import error_line, write_image

CONTENT = {"cityscapes": ([0, 7, 33, 9], [255, 0, 18, 255]), "coco_stuff": ([0, 12, 181, 255], [0, 11, 170, 255])}
SPLITS = {"cityscapes": ("train", "val"), "coco_stuff": ("train2017", "val2017")}


def make(root: Path, layout: str) -> list[Path]:
    """A data set with two pairs in each split; the label files, sorted."""
    values = np.array([CONTENT[layout][0]], dtype=np.uint8).repeat(3, axis=0)
    files = []
    for split in SPLITS[layout]:
        for number, name in enumerate(("bonn_1", "jena_2")):
            if layout == "cityscapes":
                city = name.split("_")[0]
                image = root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
                label = root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png"
            else:
                image = root / "images" / split / f"{name}.jpg"
                label = root / "annotations" / split / f"{name}.png"
            write_image(image, seed=number + 7 * len(split), size=(3, 4))
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(label)
            files.append(label)
    return files


def converted(layout: str, label: Path) -> Path:
    return label.with_name(label.stem.removesuffix("_labelIds") + "_labelTrainIds.png")


both = pytest.mark.parametrize("layout", CONTENT)


@both
def test_conversion(layout: str, tmp_path: Path) -> None:
    labels = make(tmp_path, layout)
    before = {file: file.read_bytes() for file in labels}
    data = SegmentationData(root=str(tmp_path), layout=layout)
    unconverted = segmentation_folder(data, SPLITS[layout][0])
    calls: list[tuple[int, int, str]] = []
    summary = convert_labels(tmp_path, layout, progress=lambda *arguments: calls.append(arguments))
    assert (summary.written, summary.kept) == (4, 0)
    assert [(done, total) for done, total, _ in calls] == [(4, 4)]
    for label in labels:
        found = read_labels(converted(layout, label))
        assert found.tolist() == [CONTENT[layout][1]] * 3
    assert {file: file.read_bytes() for file in labels} == before
    assert not [*tmp_path.rglob("*.tmp")]
    # What is loaded is the same, now from the converted files.
    dataset = segmentation_folder(data, SPLITS[layout][0])
    assert all(pair.converted for pair in dataset.pairs)
    assert [dataset[i].target.tolist() for i in range(2)] == [unconverted[i].target.tolist() for i in range(2)]
    assert not any("fit" in problem or "alone" in problem for problem in check_dataset(tmp_path).problems)


@both
def test_going_on_after_an_interruption(layout: str, tmp_path: Path) -> None:
    labels = make(tmp_path, layout)
    convert_labels(tmp_path, layout)
    kept, lost = converted(layout, labels[0]), converted(layout, labels[1])
    kept.write_bytes(b"old")
    lost.unlink()
    summary = convert_labels(tmp_path, layout)
    assert (summary.written, summary.kept) == (1, 3)
    assert kept.read_bytes() == b"old"
    assert read_labels(lost).tolist() == [CONTENT[layout][1]] * 3
    summary = convert_labels(tmp_path, layout, overwrite=True)
    assert (summary.written, summary.kept) == (4, 0)
    assert read_labels(kept).tolist() == [CONTENT[layout][1]] * 3
    assert "4 label files written" in summary.summary()
    assert summary.to_dict() == {"root": str(tmp_path), "layout": layout, "written": 4, "kept": 0}


@both
def test_what_cannot_be_converted(layout: str, tmp_path: Path) -> None:
    error_line(lambda: convert_labels(tmp_path, layout), str(tmp_path), "does not exist")
    labels = make(tmp_path, layout)
    Image.fromarray(np.full((3, 4), 200, dtype=np.uint8)).save(labels[2])
    error_line(lambda: convert_labels(tmp_path, layout), str(labels[2]), "label 200 is out of range")
    assert not converted(layout, labels[2]).exists()
    assert not [*tmp_path.rglob("*.tmp")]
    for file in tmp_path.rglob("*.png"):
        file.unlink()
    error_line(lambda: convert_labels(tmp_path, layout), "holds no label files")


def test_other_layouts(tmp_path: Path) -> None:
    for layout in ("ade20k", "folder", "voc"):
        error_line(partial(convert_labels, tmp_path, layout), repr(layout), "cityscapes, coco_stuff")
