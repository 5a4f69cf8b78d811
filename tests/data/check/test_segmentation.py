from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from a2mamba.data import SegmentationData, UnknownLayoutError, check_dataset, segmentation_folder

from ..helpers import error_line, write_image

SIZE = (6, 9)


def write_labels(path: Path, *numbers: int, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.resize(np.array(numbers, dtype=np.uint8), size)).save(path)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Three training and two validation pairs of three named classes, every one seen in both."""
    root = tmp_path / "own"
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            write_image(root / "images" / split / f"{number}.png", seed=number + 10 * (split == "val"), size=SIZE)
            write_labels(root / "masks" / split / f"{number}.png", 0, 1, 2, 255)
    (root / "classes.txt").write_text("ground\nleaf\nstem\n")
    return root


def test_demo_scenes(demo: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    root = demo / "ADEChallengeData2016"
    report = check_dataset(root, progress=lambda *arguments: calls.append(arguments))
    assert report.layout == "ade20k"
    assert {name: split.images for name, split in report.splits.items()} == {"training": 24, "validation": 12}
    seen = report.splits["training"].classes
    assert len(seen) == 11
    assert next(iter(seen.values())) == 24  # the background is in every image
    counts = [0] * 11
    for file in (root / "annotations" / "training").iterdir():
        with Image.open(file) as image:
            for value in set(np.asarray(image).ravel().tolist()) - {0}:
                counts[value - 1] += 1
    assert [*seen.values()] == counts
    assert calls == [(24, 24, "training"), (12, 12, "validation")]
    assert all("never seen" in problem for problem in report.problems)


def test_sound_data(own: Path) -> None:
    report = check_dataset(own)
    assert (report.layout, report.problems) == ("folder", [])
    assert report.splits["train"].classes == {"ground": 3, "leaf": 3, "stem": 3}
    assert "train: 3 images, 3 classes of 3 to 3" in report.summary()
    assert json.loads(json.dumps(report.to_dict()))["splits"]["val"]["images"] == 2


def test_every_kind_of_problem_is_named(own: Path) -> None:
    images, masks = own / "images", own / "masks"
    write_labels(masks / "train" / "0.png", 0, 1, 7)
    write_labels(masks / "train" / "1.png", 0, 1, size=(6, 8))
    for number in (3, 4, 5):
        write_image(images / "train" / f"{number}.png", seed=20 + number, size=SIZE)
    write_image(masks / "train" / "3.png", size=SIZE)  # colors
    (masks / "train" / "4.png").write_bytes(b"")
    (images / "train" / "6.png").write_text("no image")
    write_labels(masks / "train" / "6.png", 0)
    lonely = write_labels(masks / "train" / "9.png", 0)
    twin = write_image(images / "train" / "2.webp", size=SIZE)
    shutil.copy(images / "train" / "0.png", images / "val" / "leak.png")
    write_labels(masks / "val" / "leak.png", 0)
    for number in (0, 1):
        write_labels(masks / "val" / f"{number}.png", 0, 1)
    report = check_dataset(own)
    problems = "\n".join(report.problems)
    assert len(report.problems) == 7, problems
    assert f"train: 1 images without a label file: {images / 'train' / '5.png'}" in problems
    assert f"train: 1 label files without an image: {lonely}" in problems
    assert f"train: 1 images that share a label file with another: {twin}" in problems
    assert "train: 2 undecodable files" in problems
    assert "(the file is empty)" in problems
    assert report.splits["train"].undecodable == {
        str(masks / "train" / "4.png"): "the file is empty",
        str(
            images / "train" / "6.png"
        ): "not an image in a known format (JPEG, PNG, WEBP, BMP, TIFF, GIF, PPM, AVIF, HEIF)",
    }
    assert "train: 3 label files that do not fit" in problems
    assert f"{masks / 'train' / '0.png'} (label 7 is out of range" in problems
    unlike = f"(8 x 6 pixels, but its image {images / 'train' / '1.png'} has 9 x 6; both must be equal)"
    assert f"{masks / 'train' / '1.png'} {unlike}" in problems
    assert "its pixels are colors" in problems
    assert "val: 1 of 3 classes are never seen: stem" in problems
    assert "1 images lie in more than one split" in problems
    assert report.duplicates == [[str(images / "train" / "0.png"), str(images / "val" / "leak.png")]]
    assert all("\n" not in problem for problem in report.problems)


def test_an_image_with_two_label_files_is_refused(own: Path) -> None:
    """Which of them is read would depend on the order in which a disk lists its files."""
    other = write_labels(own / "masks" / "train" / "0.tif", 1, 0)
    assert f"train: 1 label files whose image has another one: {other}" in check_dataset(own).problems
    data = SegmentationData(root=str(own), layout="folder")
    error_line(lambda: segmentation_folder(data, "train"), str(other), "whose image has another one")


def test_splits_that_lack_a_side(own: Path) -> None:
    shutil.rmtree(own / "masks" / "val")
    report = check_dataset(own)
    assert [*report.splits] == ["train"]
    (problem,) = report.problems
    assert problem.startswith(f"only {own / 'images' / 'val'} of this split exists")
    shutil.rmtree(own / "images" / "val")
    for folder in ("images", "masks"):
        for file in (own / folder / "train").iterdir():
            file.unlink()
    with pytest.raises(UnknownLayoutError):
        check_dataset(own)


def test_further_splits(own: Path) -> None:
    for folder in ("images", "masks"):
        shutil.copytree(own / folder / "val", own / folder / "test")
    write_labels(own / "masks" / "test" / "0.png", 255)
    write_labels(own / "masks" / "test" / "1.png", 255)
    report = check_dataset(own)
    assert [*report.splits] == ["train", "val", "test"]
    (problem,) = report.problems  # a test split's labels may be withheld
    assert "2 images lie in more than one split" in problem


def test_bad_list_of_names(own: Path) -> None:
    (own / "classes.txt").write_text("a\na\n")
    report = check_dataset(own)
    (problem,) = report.problems
    assert str(own / "classes.txt") in problem
    assert report.layout == "folder"


def test_published_layouts(tmp_path: Path) -> None:
    city = tmp_path / "cityscapes"
    write_image(city / "leftImg8bit" / "train" / "bonn" / "a_leftImg8bit.png", size=SIZE)
    write_labels(city / "gtFine" / "train" / "bonn" / "a_gtFine_labelIds.png", 7, 8, 0)
    report = check_dataset(city)
    assert report.layout == "cityscapes"
    assert {name for name, count in report.splits["train"].classes.items() if count} == {"road", "sidewalk"}
    assert "17 of 19 classes are never seen" in report.problems[0]
    coco = tmp_path / "coco"
    write_image(coco / "images" / "val2017" / "1.jpg", size=SIZE)
    write_labels(coco / "annotations" / "val2017" / "1.png", 181, 11)
    report = check_dataset(coco)
    assert report.layout == "coco_stuff"
    assert report.splits["val2017"].images == 1
    assert "label 11 is out of range" in report.problems[0]
