from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from a2mamba.data import (
    DetectionData,
    check_dataset,
    check_validation,
    read_annotations,
    read_detection_split,
    train_detection_loader,
)
from a2mamba.data.detection import find_detection
from a2mamba.data.layouts import recognize
from data.helpers import error_line, write_image

from .coco_helpers import HEIGHT, WIDTH, content, entry, write_coco

pytest.importorskip("faster_coco_eval")


def placed(found: Any) -> DetectionData:
    data: DetectionData = found.place(DetectionData(root=""))
    return data


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("{split}", "annotations/instances_{split}.json"),
        ("images/{split}", "annotations/instances_{split}.json"),
        ("images/{split}", "annotations/{split}.json"),
        ("{split}/images", "{split}/annotations.json"),
        ("{split}/images", "{split}/labels/coco.json"),
        ("{split}", "{split}/_annotations.coco.json"),
        ("images", "{split}.json"),
        ("data/photos", "annotations/my_{split}_set.json"),
    ],
)
def test_any_arrangement_of_folders(tmp_path: Path, images: str, file: str) -> None:
    if "labels/coco" in file:
        file = file.replace("labels/", "annotations/")
    for split, first in (("train", 1), ("val", 101)):
        data = content(first)
        for place, image in enumerate(data["images"]):
            target = tmp_path / images.format(split=split) / image["file_name"]
            write_image(target, seed=first + place, size=(HEIGHT, WIDTH))
        target = tmp_path / file.format(split=split)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(data))
    source = find_detection(tmp_path)
    assert source is not None
    assert (source.layout, list(source.splits), source.masks) == ("coco", ["train", "val"], True)
    data_of = placed(recognize(tmp_path))
    splits: list[Literal["train", "val"]] = ["train", "val"]
    for split in splits:
        found = read_detection_split(data_of, split)
        assert found.folder is not None
        assert all((found.folder / name).is_file() for name in found.file_names)
    assert check_dataset(tmp_path).problems == []


def test_images_split_across_folders(tmp_path: Path) -> None:
    file = write_coco(tmp_path, "train", content())
    for name, folder in (("000001.png", "one"), ("000002.png", "two/deep"), ("000003.png", "two")):
        (tmp_path / "shots" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / name).rename(tmp_path / "shots" / folder / name)
    (tmp_path / "train").rmdir()
    data = placed(recognize(tmp_path))
    found = read_detection_split(data, "train")
    assert {Path(name).name for name in found.file_names} <= {"000001.png", "000002.png", "000003.png"}
    problems = "\n".join(check_dataset(tmp_path).problems)
    assert "not in" not in problems
    write_image(tmp_path / "shots" / "one" / "000003.png", size=(HEIGHT, WIDTH))
    assert "1 listed images are not in" in "\n".join(check_dataset(tmp_path).problems), "two files of one name"
    assert file.is_file()


@pytest.mark.parametrize(("lacking", "other"), [("train", "val"), ("val", "train")])
def test_an_image_of_the_same_name_in_the_other_split_is_another_image(
    lacking: str, other: str, tmp_path: Path
) -> None:
    """Both number theirs from 1; boxes of the one that is missing would be learned on the other."""
    for split, seed in (("train", 0), ("val", 50)):
        write_coco(tmp_path, split, content(), seed=seed)
    assert recognize(tmp_path).notes == []
    (tmp_path / lacking / "000001.png").unlink()
    line = error_line(lambda: recognize(tmp_path), f"1 images of {tmp_path}", f"instances_{lacking}.json are in")
    assert f"{tmp_path / other} alone" in line
    assert check_dataset(tmp_path).problems == [line]


def test_a_folder_of_training_images_that_is_missing_is_not_the_other(tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("val", 50)):
        write_coco(tmp_path, split, content(), seed=seed)
    shutil.rmtree(tmp_path / "train")
    error_line(lambda: recognize(tmp_path), "3 images of", "instances_train.json are in", "add those of train")


def test_a_split_may_be_a_part_of_the_training_images(tmp_path: Path) -> None:
    """Lists of one folder's images: what both list is said, as before."""
    file = write_coco(tmp_path, "train", content())
    data = content()
    data["images"], data["annotations"] = data["images"][:1], [a for a in data["annotations"] if a["image_id"] == 1]
    file.with_name("instances_val.json").write_text(json.dumps(data))
    assert "1 of 1 images of val are those of train" in recognize(tmp_path).notes[0]


def test_polygons_as_scripts_write_them(tmp_path: Path) -> None:
    """Without the list around the only one, or in points: no reason to train boxes alone."""
    triangle = [5.0, 6.0, 25.0, 6.0, 25.0, 16.0]
    drawn = []
    for stated in ([triangle], triangle, [triangle[:2], triangle[2:4], triangle[4:]]):
        data = content()
        for annotation in data["annotations"]:
            annotation["segmentation"] = stated
        write_coco(tmp_path, "train", data)
        source = find_detection(tmp_path)
        assert source is not None
        assert source.masks
        drawn.append(source.read("train").mask(0))
    assert np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[0], drawn[2])
    assert drawn[0].sum() > 50


def test_ids_as_other_tools_write_them(tmp_path: Path) -> None:
    data = content()
    expected = read_annotations(data)
    for image in data["images"]:
        image |= {"id": str(image["id"]), "height": float(HEIGHT), "width": str(WIDTH)}
    for annotation in data["annotations"]:
        annotation |= {"image_id": float(annotation["image_id"]), "category_id": str(annotation["category_id"])}
        del annotation["id"], annotation["iscrowd"], annotation["area"]
    found = read_annotations(write_coco(tmp_path, "train", {**data, "images": content()["images"]}))
    also = read_annotations(data)
    for one in (found, also):
        assert one.boxes.tolist() == expected.boxes.tolist()
        assert one.labels.tolist() == expected.labels.tolist()
        assert one.image_ids.tolist() == [1, 2, 3]
        assert sorted(one.annotation_ids.tolist()) == [1, 2, 3, 4, 5]
    data["annotations"][0]["id"] = 7
    error_line(lambda: read_annotations(data), "annotation number 1", "id None")


@pytest.mark.parametrize("mark", [False, 0, "0", "false", " False ", ""])
def test_marks_that_were_written_as_text(mark: object) -> None:
    """A crowd takes no part in training: "0" read as one would leave the object out."""
    data = content()
    for item in data["annotations"]:
        item |= {"iscrowd": mark, "ignore": mark}
    data["annotations"][1]["iscrowd"] = "1"
    assert read_annotations(data).used.tolist() == [False, True, True, True, True]


def test_names_that_another_system_takes_for_the_same(tmp_path: Path) -> None:
    """Upper case of Windows, and accents as macOS stores them; the same names lie in both splits."""
    for seed, split in enumerate(("train", "val")):
        data = content()
        for place, image in enumerate(data["images"]):
            name = f"caf\u00e9 {place}.png"
            write_image(tmp_path / split / f"cafe\u0301 {place}.PNG", seed=9 * seed + place, size=(HEIGHT, WIDTH))
            image["file_name"] = name
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    data_of = placed(recognize(tmp_path))
    splits: list[Literal["train", "val"]] = ["train", "val"]
    for split in splits:
        found = read_detection_split(data_of, split)
        files = [(tmp_path / split / name).resolve() for name in found.file_names]
        assert files == [tmp_path / split / f"cafe\u0301 {place}.PNG" for place in range(3)]
    assert check_dataset(tmp_path).problems == []


def test_two_files_of_the_same_images(tmp_path: Path) -> None:
    """Of two versions one would be trained on and the other evaluated on."""
    write_coco(tmp_path, "train", content())
    file = tmp_path / "annotations" / "instances_train.json"
    other = file.with_name("instances_train_v2.json")
    other.write_text(file.read_text())
    error_line(lambda: recognize(tmp_path), str(file), str(other), "list the same images")
    other.rename(file.with_name("instances_val.json"))  # who calls it so evaluates on what was trained on
    assert (
        "3 of 3 images of val are those of train: metrics on what was trained on say little"
        in recognize(tmp_path).notes
    )


def test_byte_order_mark(tmp_path: Path) -> None:
    file = write_coco(tmp_path, "train", content())
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(read_annotations(file).image_ids) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y, w, h: [x, y, x + w, y + h], "all fit as corners [x0, y0, x1, y1]"),
        (lambda x, y, w, h: [x + w / 2, y + h / 2, w, h], "all fit as the center with width and height"),
        (lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT], "from 0 to 1, and are shares"),
    ],
)
def test_boxes_of_another_form_are_refused(change: Callable[..., list[float]], said: str) -> None:
    data = content()
    for place, annotation in enumerate(data["annotations"]):
        box = (WIDTH - 12, HEIGHT - 12, 11, 11) if place < 2 else annotation["bbox"]
        annotation["bbox"] = change(*box)
        annotation["segmentation"] = []
    error_line(lambda: read_annotations(data, masks=False), said, "boxes of another form")


def test_some_boxes_outside_of_their_images_are_no_other_form() -> None:
    data = content()
    for annotation in data["annotations"][:2]:
        annotation["bbox"] = [WIDTH - 4.0, 5, 3000, 2]
    assert len(read_annotations(data).boxes) == 5


def test_a_file_that_is_listed_twice_is_refused() -> None:
    """Each of its images would lack the objects of the other."""
    data = content()
    data["images"][1]["file_name"] = data["images"][0]["file_name"]
    error_line(lambda: read_annotations(data), "is more than one image", "file listed twice")


def test_one_split_is_divided_by_names(tmp_path: Path) -> None:
    data = content()
    data["images"] = [
        {"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH} for number in range(1, 31)
    ]
    data["annotations"] = [entry(number, number, 3, (1, 2, 20, 20)) for number in range(1, 31)]
    write_coco(tmp_path, "default", data)
    found = recognize(tmp_path)
    assert found.holdout == pytest.approx(0.2)
    parts = [set(read_detection_split(placed(found), split).file_names) for split in ("train", "val")]
    assert [len(part) for part in parts] == [24, 6]
    assert not parts[0] & parts[1]
    train = read_detection_split(placed(found), "train")
    assert train.annotation_ids.tolist() == train.image_ids.tolist(), "objects stay with their images"


def test_one_bad_polygon_among_good_ones_is_counted(tmp_path: Path) -> None:
    data = content()
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    data["annotations"][1]["segmentation"].append([1, 2, 3, 4])
    data["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    write_coco(tmp_path, "train", data)
    found = read_annotations(data)
    assert found.repaired == {"a polygon among others that is none": [12]}
    assert list(found.skipped.values()) == [[13]]
    assert sorted(found.annotation_ids.tolist()) == [11, 12, 14, 15]
    problems = check_dataset(tmp_path).problems
    assert any("1 annotations are used without a part, a polygon among others" in text for text in problems)
    assert any("1 annotations are left out in training, no polygon of three points" in text for text in problems)
    loader = train_detection_loader(
        DetectionData(
            root=str(tmp_path), train_images="train", train_annotations="annotations/instances_train.json",
            workers=0, batch_size=2, group_by_aspect=False,
        ),
        seed=0,
    )  # fmt: skip
    assert len(loader) == 1


def test_what_the_checker_says_of_boxes(tmp_path: Path) -> None:
    data = content()
    data["annotations"][0]["bbox"] = [40.0, 6.0, 40.0, 10.0]
    big = {"id": 9, "file_name": "big.png", "height": 3000, "width": 4000}
    data["images"].append(big)
    data["annotations"].append(
        {"id": 16, "image_id": 9, "category_id": 3, "bbox": [5.0, 5.0, 9.0, 900.0], "area": 8100, "iscrowd": 0}
    )
    for annotation in data["annotations"]:
        annotation.pop("segmentation", None)
    write_coco(tmp_path, "train", data)
    problems = check_dataset(tmp_path).problems
    assert problems == [
        "train: 1 boxes reach beyond their images and are cut there: 11",
        "train: 1 objects are narrower than 4 pixels once their images are resized to 800 x 1333, and can hardly be "
        "found; cut the images into tiles: 16",
    ]


def test_crowds_everywhere_are_found(tmp_path: Path) -> None:
    data = content()
    for annotation in data["annotations"]:
        annotation["iscrowd"] = 1
    write_coco(tmp_path, "train", data)
    problems = "\n".join(check_dataset(tmp_path).problems)
    assert "all 5 annotations are marked as crowds (iscrowd), and none is trained on" in problems
    run = DetectionData(root=str(tmp_path), train_images="train", train_annotations="annotations/instances_train.json")
    error_line(lambda: train_detection_loader(run, seed=0), "no image with objects", "5 crowd")


def test_other_json_files_beside_instances_are_no_splits(tmp_path: Path) -> None:
    file = write_coco(tmp_path, "train2017", content())
    file.with_name("person_keypoints_train2017.json").write_text(json.dumps(content()))
    file.with_name("captions_train2017.json").write_text(json.dumps({"images": [], "annotations": []}))
    source = find_detection(tmp_path)
    assert source is not None
    assert list(source.splits) == ["train2017"]


def test_the_evaluation_split_is_looked_at_first(tmp_path: Path) -> None:
    write_coco(tmp_path, "train", content(1))
    write_coco(tmp_path, "val", content(101), seed=9)
    check_validation(recognize(tmp_path))
    write_image(tmp_path / "val" / "000102.png", size=(WIDTH, HEIGHT))
    (tmp_path / "val" / "000103.png").write_bytes(b"x")
    error_line(
        lambda: check_validation(recognize(tmp_path)),
        "2 of 3 images to evaluate on cannot be used",
        "000102.png (is 40 pixels wide and 60 high",
        "000103.png (",
    )
    empty = content(101)
    empty["annotations"] = []
    write_coco(tmp_path, "val", empty, seed=9)
    error_line(lambda: check_validation(recognize(tmp_path)), "instances_val.json has no object to evaluate on")
