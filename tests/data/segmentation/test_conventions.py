"""What numbers and colors in label files are taken for, and where their names come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from a2mamba.data import LabelMap, SegmentationData, recognize, segmentation_classes, train_segmentation_loader
from a2mamba.data.segmentation.palettes import find_listed_classes
from a2mamba.data.segmentation.source import find_convention

from ..helpers import error_line, write_image

SIZE = (24, 32)
OWN = ("images", "masks", "train", "val")
ADE = ("images", "annotations", "training", "validation")


def write(root: Path, *values: int, layout: tuple[str, str, str, str] = OWN) -> SegmentationData:
    """Pairs whose masks hold the numbers, in equal parts, and the data that reads them."""
    images, masks, *splits = layout
    for split in splits:
        for number in range(4):
            write_image(root / images / split / f"{number}.png", seed=number + 10 * (split == splits[1]), size=SIZE)
            mask = root / masks / split / f"{number}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.resize(np.repeat(values, 40), SIZE).astype(np.uint8)).save(mask)
    name = "ade20k" if layout == ADE else "folder"
    return SegmentationData(root=str(root), layout=name, workers=0, batch_size=2, crop_size=(24, 24), resize=(32, 24))


@pytest.mark.parametrize(
    ("layout", "values", "names", "meaning", "classes"),
    [
        (OWN, (0, 255), None, {0: 0, 255: 1}, ["background", "foreground"]),
        (OWN, (0, 255), "crack\n", {0: 0, 255: 1}, ["background", "crack"]),
        (OWN, (0, 255), "no\nyes\n", {0: 0, 255: 1}, ["no", "yes"]),
        (OWN, (0, 1), "crack\n", {0: 0, 1: 1, 255: 255}, ["background", "crack"]),
        (OWN, (0, 1), None, {0: 0, 1: 1, 255: 255}, ["class_0", "class_1"]),
        (OWN, (0, 1, 255), None, {0: 0, 1: 1, 255: 255}, ["class_0", "class_1"]),
        (OWN, (0, 128), None, {0: 0, 128: 1, 255: 255}, ["class_0", "class_128"]),
        (OWN, (0, 128, 255), None, {0: 0, 128: 1, 255: 2}, ["class_0", "class_128", "class_255"]),
        (OWN, (0, 127, 255), "a\nb\nc\n", {0: 0, 127: 1, 255: 2}, ["a", "b", "c"]),
        (OWN, (0, 85, 170, 255), "a\nb\nc\n", {0: 0, 85: 1, 170: 2, 255: 255}, ["a", "b", "c"]),
        (OWN, (1, 2, 3), "a\nb\nc\n", {1: 0, 2: 1, 3: 2, 255: 255}, ["a", "b", "c"]),
        (OWN, (1, 2, 3), None, {1: 0, 2: 1, 3: 2, 255: 255}, ["class_1", "class_2", "class_3"]),
        (OWN, (1, 2, 3), "a\nb\nc\nd\n", {1: 1, 2: 2, 3: 3}, ["a", "b", "c", "d"]),
        (OWN, (0, 7), None, {0: 0, 7: 1, 255: 255}, ["class_0", "class_7"]),
        (OWN, (0, 1, 3), None, {0: 0, 1: 1, 2: 2, 3: 3}, ["class_0", "class_1", "class_2", "class_3"]),
        (OWN, (0, 1, 2), "\ufeffa \r\nb\r\n\r\nc\r\n", {0: 0, 1: 1, 2: 2}, ["a", "b", "c"]),
        (ADE, (0, 1), None, {0: 0, 1: 1, 255: 255}, ["background", "foreground"]),
        (ADE, (0, 255), None, {0: 0, 255: 1}, ["background", "foreground"]),
        (ADE, (0, 1, 2), None, {0: 255, 1: 0, 2: 1}, ["class_1", "class_2"]),
        (ADE, (0, 1, 2), "a\nb\n", {0: 255, 1: 0, 2: 1}, ["a", "b"]),
    ],
)
def test_meaning_of_numbers(
    layout: tuple[str, str, str, str],
    values: tuple[int, ...],
    names: str | None,
    meaning: dict[int, int],
    classes: list[str],
    tmp_path: Path,
) -> None:
    data = write(tmp_path, *values, layout=layout)
    if names is not None:
        (tmp_path / "classes.txt").write_bytes(names.encode())
    found = find_convention(data)
    assert found.classes == classes == segmentation_classes(data) == recognize(tmp_path).classes
    assert isinstance(found.label_map, LabelMap)
    table = found.label_map.table()
    assert {value: int(table[value]) for value in meaning} == meaning
    batch = next(iter(train_segmentation_loader(data, seed=0, classes=classes)))
    assert set(batch.targets.unique().tolist()) <= {*range(len(classes)), 255}
    assert len(set(batch.targets.unique().tolist()) - {255}) >= 2


def test_what_is_unusual_is_said(tmp_path: Path) -> None:
    assert find_convention(write(tmp_path / "plain", 0, 1, 2)).note == ""
    assert "0 and 255: read as two classes" in find_convention(write(tmp_path / "two", 0, 255)).note
    assert "0, 128, 255: read as 3 classes" in find_convention(write(tmp_path / "three", 0, 128, 255)).note
    notes = recognize_notes(tmp_path / "ade")
    assert notes == ["as in ADE20K, label 0 is ignored and 1 is 'class_1'"]


def recognize_notes(root: Path) -> list[str]:
    write(root, 0, 1, 2, layout=ADE)
    return recognize(root).notes


def test_values_can_be_stated(tmp_path: Path) -> None:
    data = write(tmp_path, 0, 1, 2)
    stated = SegmentationData(root=data.root, layout="folder", label_values=(2, 0))
    assert segmentation_classes(stated) == ["class_2", "class_0"]
    label_map = find_convention(stated).label_map
    assert isinstance(label_map, LabelMap)
    assert label_map.table()[[0, 1, 2, 255]].tolist() == [1, -1, 0, 255]
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    error_line(lambda: segmentation_classes(stated), "label_values has 2 numbers", "3 names")


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_smoothed_edges_are_two_classes(suffix: str, tmp_path: Path) -> None:
    data = write(tmp_path, 0, 1)
    sharp = np.zeros((80, 100), dtype=np.uint8)
    sharp[20:50, 30:70] = 255
    for file in (tmp_path / "masks").rglob("*.png"):
        file.unlink()
        write_image(tmp_path / "images" / file.parent.name / file.name, seed=1, size=sharp.shape)
        image = Image.fromarray(sharp)
        (image if suffix == ".jpg" else image.filter(ImageFilter.GaussianBlur(1))).save(file.with_suffix(suffix))
    found = find_convention(data)
    assert found.classes == ["background", "foreground"]
    assert "smoothed edges" in found.note
    for file in (tmp_path / "masks").rglob(f"*{suffix}"):
        assert np.mean(found.label_map.read(file) == (sharp > 0)) > 0.99


@pytest.mark.parametrize("values", [(0,), (255,), (3,), (1, 255)])
def test_one_class_is_refused_in_training_too(values: tuple[int, ...], tmp_path: Path) -> None:
    data = write(tmp_path, *values)
    error_line(lambda: train_segmentation_loader(data, seed=0), str(tmp_path))
    error_line(lambda: recognize(tmp_path), str(tmp_path))


COLORS = [("ground", (0, 0, 0)), ("leaf", (200, 30, 30)), ("stem", (30, 200, 30))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nground:0,0,0::\nleaf:200,30,30::part:\nstem:30,200,30::\n"),
        ("classes.txt", "ground 0 0 0\nleaf\t200\t30\t30\nstem, 30, 200, 30\n"),
        ("label_colors.txt", "0 0 0 ground\n200 30 30 leaf\n30 200 30 stem\n"),
        ("class_dict.csv", "name,r,g,b\nground,0,0,0\nleaf,200,30,30\nstem,30,200,30\n"),
        ("palette.json", '{"ground": [0, 0, 0], "leaf": "#c81e1e", "stem": [30, 200, 30]}'),
        (
            "classes.json",
            '[{"name": "ground", "color": "#000000"}, {"name": "leaf", "color": [200, 30, 30]}, '
            '{"name": "stem", "color": "1ec81e"}]',
        ),
        ("labels.json", '{"#000000": "ground", "#c81e1e": "leaf", "#1ec81e": "stem"}'),
    ],
)
def test_colors_from_every_kind_of_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    listed = find_listed_classes(tmp_path)
    assert listed is not None
    assert list(zip(listed.names, listed.colors or (), strict=True)) == COLORS


def test_names_with_blanks_and_numbers_are_names(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("traffic light\nclass 3\n1\n")
    listed = find_listed_classes(tmp_path)
    assert listed is not None
    assert (listed.names, listed.colors) == (["traffic light", "class 3", "1"], None)
    for names in (["0 ground", "1 leaf"], ["7 up", "2 cans"], ["10 cents", "1 cent"]):
        (tmp_path / "classes.txt").write_text("\n".join(names))
        listed = find_listed_classes(tmp_path)
        assert listed is not None
        assert listed.names == names


@pytest.mark.parametrize(
    "text",
    [
        '{"0": "ground", "1": "leaf", "10": "sky", "2": "stem"}',
        '{"stem": 2, "leaf": 1, "sky": 10, "ground": 0}',
        '{"10": {"name": "sky"}, "2": {"name": "stem"}, "1": {"name": "leaf"}, "0": {"name": "ground"}}',
        '[{"id": 1, "name": "leaf"}, {"id": 0, "name": "ground"}, {"id": 9, "name": "sky"}, {"id": 2, "name": "stem"}]',
        '{"labels": [{"id": 2, "name": "leaf"}, {"id": 1, "name": "ground"}, {"id": 4, "name": "sky"}, {"id": 3, '
        '"name": "stem"}]}',
    ],
)
def test_numbers_in_json_decide_the_order(text: str, tmp_path: Path) -> None:
    """Sorted as texts, "10" comes before "2": every class behind it would have the name of another."""
    (tmp_path / "classes.json").write_text(text)
    listed = find_listed_classes(tmp_path)
    assert listed is not None
    assert listed.names == ["ground", "leaf", "stem", "sky"]


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("classes.txt", "2: stem\n0: ground\n1: leaf\n", "has '2: stem' in its first line"),
        ("palette.json", "{", "not JSON"),
        ("palette.json", "3", "expected"),
        ("labelmap.txt", "a:1,2,3::\nb:::\n", "no color for b"),
        ("labelmap.txt", "a:1,2,300::\nb:0,0,0::\n", "out of range"),
    ],
)
def test_bad_lists(name: str, text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    error_line(lambda: find_listed_classes(tmp_path), name, part)
