from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from a2mamba.data import check_dataset
from data.helpers import write_image

from .coco_helpers import HEIGHT, WIDTH, changed, entry, rectangle


def test_sound_data(coco: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    report = check_dataset(coco, progress=lambda *arguments: calls.append(arguments))
    assert report.problems == []
    assert report.layout == "coco"
    assert list(report.splits) == ["train2017", "val2017"]
    assert report.splits["train2017"].images == 3
    assert report.splits["train2017"].classes == {"class 3": 1, "class 7": 2, "class 90": 2}
    assert calls == [(3, 3, "train2017"), (3, 3, "val2017")]
    assert "train2017: 3 images, 3 classes of 1 to 2" in report.summary()
    assert json.loads(json.dumps(report.to_dict()))["splits"]["val2017"]["images"] == 3


def test_demo_data_is_sound(demo: Path) -> None:
    report = check_dataset(demo / "coco")
    assert [problem for problem in report.problems if "categories have no objects" not in problem] == []
    assert report.splits["train2017"].images == 24


def _masks(data: dict[str, Any]) -> None:
    first, second, third, fourth, fifth = data["annotations"]
    first["segmentation"] = rectangle(8, 6, 17, 10)  # 3 pixels from the left edge of its box: more than the slack of 2
    second["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": "54"}
    third["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    fourth["segmentation"] = [[30, 20, 60, 20, 60, 40, 30, 40]]
    fifth["bbox"] = [2.0, 3.0, 5.5, 6.5]  # off by less than the slack


def _boxes(data: dict[str, Any]) -> None:
    data["annotations"][0]["bbox"] = [5.0, 6.0, 0.0, 10.0]
    data["annotations"][1]["bbox"] = [90.0, 6.0, 10.0, 10.0]
    data["annotations"][2]["bbox"] = [10.0, 6.0, -4.0, 10.0]
    data["annotations"][4]["iscrowd"] = 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            _masks,
            [
                "train2017: 1 damaged masks, annotations 12 (its run lengths",
                "train2017: 1 masks without a pixel, annotations 13",
                "train2017: 1 masks that do not match their box, annotations 11",
            ],
        ),
        (
            _boxes,
            [
                "train2017: 2 annotations are left out in training, box without area or outside of the image: 11, 12",
                "train2017: 1 annotations are left out in training, box of negative size: 13",
                "train2017: 2 of 3 categories have no objects: class 3, class 90",
            ],
        ),
        (
            lambda data: data["annotations"].append(entry(11, 1, 3, (0, 0, 5, 5))),
            ["train2017: duplicate annotation id, 1 times: annotation id 11 occurs twice"],
        ),
        (
            lambda data: [data["annotations"][place].update(image_id=9) for place in (0, 1)],
            [
                "train2017: unknown image, 2 times: annotation 11 is of image 9, which is not listed, annotation 12",
                "train2017: 1 of 3 categories have no objects",
            ],
        ),
        (
            lambda data: data["annotations"][0].update(bbox=[float("nan"), 1, 2, 3]),
            ["train2017: no valid box, 1 times: annotation 11"],
        ),
        (
            lambda data: data["annotations"][0].pop("segmentation"),
            ["train2017: no valid mask, 1 times: annotation 11: it has no segmentation"],
        ),
        (
            lambda data: data["images"][1].update(file_name="000001.png"),
            ["train2017: file listed twice, 1 times: 000001.png is more than one image"],
        ),
        (
            lambda data: data["images"][1].update(height=99),
            ["train2017: 1 images are of another size than listed: "],
        ),
        (
            lambda data: data["categories"].append({"id": 8, "name": "new"}),
            [
                "train2017: 1 of 4 categories have no objects: new",
                "val2017: lacks categories of train2017, and is evaluated on the others: new",
            ],
        ),
    ],
)
def test_problems_of_the_annotations(coco: Path, change: Any, expected: list[str]) -> None:
    changed(coco, change)
    report = check_dataset(coco)
    assert len(report.problems) == len(expected), report.problems
    for problem, start in zip(sorted(report.problems), sorted(expected), strict=True):
        assert problem.startswith(start)
        assert "\n" not in problem


def test_problems_of_the_images(coco: Path) -> None:
    (coco / "train2017" / "000001.png").unlink()
    (coco / "train2017" / "000002.png").write_bytes(b"")
    shutil.copy(coco / "train2017" / "000003.png", coco / "val2017" / "000101.png")
    write_image(coco / "val2017" / "000102.png", size=(WIDTH, HEIGHT))
    report = check_dataset(coco)
    problems = "\n".join(report.problems)
    assert len(report.problems) == 4
    assert "train2017: 1 listed images are not in" in problems
    assert "000001.png" in problems
    assert "train2017: 1 undecodable images" in problems
    assert "000002.png (the file is empty)" in problems
    assert report.splits["train2017"].undecodable == {str(coco / "train2017" / "000002.png"): "the file is empty"}
    assert "val2017: 1 images are of another size" in problems
    assert f"({HEIGHT} x {WIDTH} pixels, listed {WIDTH} x {HEIGHT})" in problems
    assert report.duplicates == [[str(coco / "train2017" / "000003.png"), str(coco / "val2017" / "000101.png")]]


def test_boxes_alone_are_sound(coco: Path) -> None:
    changed(coco, lambda data: [annotation.pop("segmentation") for annotation in data["annotations"]])
    assert check_dataset(coco).problems == []


def test_unreadable_file_and_absent_folder(coco: Path) -> None:
    shutil.rmtree(coco / "train2017")
    (coco / "annotations" / "instances_val2017.json").write_text("{")
    report = check_dataset(coco)
    assert len(report.problems) == 2
    assert any("3 listed images are not in" in problem for problem in report.problems)
    assert any("not JSON" in problem for problem in report.problems)
    assert report.splits["val2017"].images == 0
    assert "val2017" in report.summary()


def test_images_may_lie_in_a_folder_of_their_own(coco: Path) -> None:
    (coco / "images").mkdir()
    for split in ("train2017", "val2017"):
        (coco / split).rename(coco / "images" / split)
    assert check_dataset(coco).problems == []
