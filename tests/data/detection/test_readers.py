"""What YOLO's, VOC's, LabelMe's and CVAT's readers take, and what they say of files that are wrong."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from a2mamba.data import DetectionAnnotations, check_dataset, recognize
from a2mamba.data.detection import find_detection
from data.helpers import error_line, write_image

from .layouts import LAYOUTS, Scene, Thing

HEIGHT, WIDTH = 40, 60
RING = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], Path]:
    """Writes two splits of two images, "a b.jpg" and "c.jpg", each with a cat and one with a dog, in a layout."""
    scenes = {}
    for split in ("train", "val"):
        files = [
            write_image(tmp_path / "src" / split / f"{split[0]} {name}.png", size=(HEIGHT, WIDTH)) for name in "ab"
        ]
        dog = Thing("dog", [value + 3 for value in RING])
        scenes[split] = [
            Scene(files[0], HEIGHT, WIDTH, [Thing("cat", RING), dog]),
            Scene(files[1], HEIGHT, WIDTH, [Thing("cat", RING)]),
        ]

    def write(layout: str) -> Path:
        LAYOUTS[layout].write(tmp_path / layout, scenes)
        return tmp_path / layout

    return write


def read(root: Path, split: str | None = None, **options: Any) -> DetectionAnnotations:
    source = find_detection(root)
    assert source is not None
    return source.read(split or source.train_split, **options)


def corners(found: DetectionAnnotations, image: int = 0) -> list[list[float]]:
    return np.round(found.corners(image), 3).tolist()


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_boxes_labels_and_masks(made: Callable[[str], Path], layout: str) -> None:
    pytest.importorskip("faster_coco_eval")
    found = read(made(layout))
    assert [category.name for category in found.categories] == ["cat", "dog"]
    splits = 2 if LAYOUTS[layout].one_split else 1
    assert found.labels.tolist() == [1, 2, 1] * splits
    assert found.image_sizes.tolist() == [[HEIGHT, WIDTH]] * 2 * splits
    assert corners(found) == [[10, 5, 30, 25], [13, 8, 33, 28]]
    assert found.areas.tolist() == pytest.approx([400] * 3 * splits, rel=1e-3)
    if LAYOUTS[layout].masks:
        mask = found.mask(0)
        assert mask.shape == (HEIGHT, WIDTH)
        assert mask[6:24, 11:29].all()
        assert 400 <= int(mask.sum()) <= 441
    elif LAYOUTS[layout].reader == "voc":
        error_line(lambda: read(made(layout), masks=True), "boxes only", "data.masks=false")
    else:
        error_line(lambda: read(made(layout), masks=True), "no segmentation", "masks=False")


def test_labels_fit_those_of_training(made: Callable[[str], Path]) -> None:
    root = made("labelme")
    expected = read(root).categories
    for file in (root / "val").glob("*.json"):
        content = json.loads(file.read_text())
        content["shapes"] = [{**shape, "label": "DOG "} for shape in content["shapes"] if shape["label"] == "dog"]
        file.write_text(json.dumps(content))
    found = read(root, "val", categories=expected)
    assert found.labels.tolist() == [2]
    assert [category.name for category in found.categories] == ["cat", "dog"]
    for file in (root / "val").glob("*.json"):
        file.write_text(file.read_text().replace("DOG ", "cow"))
    error_line(lambda: read(root, "val", categories=expected), "categories cow are not those of training, cat, dog")
    assert "other categories than train: its categories cow" in "\n".join(check_dataset(root).problems)


@pytest.mark.parametrize("layout", ["voc", "labelme"])
def test_an_image_that_is_there_twice(made: Callable[[str], Path], layout: str) -> None:
    """The objects of one of two images of a name would be learned on the other one."""
    root = made(layout)
    images = root / ("JPEGImages" if layout == "voc" else "train")
    for folder in ("one", "two"):
        write_image(images / folder / "t a.png", seed=len(folder) + ord(folder[0]), size=(HEIGHT, WIDTH))
    (images / "t a.png").unlink()
    file = root / ("Annotations/t a.xml" if layout == "voc" else "train/t a.json")
    error_line(lambda: read(root), str(file), "one/t a.png, two/t a.png", "not known which is meant")
    file.write_text(
        file.read_text().replace("t a.png", "C:\\\\set\\\\two\\\\t a.png" if layout == "labelme" else "two/t a.png")
    )
    assert "two/t a.png" in read(root).file_names


# ---------------------------------------------------------------------------------------------------------------- YOLO


def test_a_place_that_a_list_of_folders_names_in_vain(made: Callable[[str], Path]) -> None:
    root = made("yolo_lists")
    file = root / "data.yaml"
    file.write_text(file.read_text().replace("b/images", "d/images"))
    error_line(lambda: recognize(root), "data.yaml: train names d/images, which is not there")


def test_lists_of_images_among_folders(made: Callable[[str], Path]) -> None:
    """Paths in lists are of another machine, and an image that two places name is one image."""
    root = made("yolo_lists")
    (root / "b.txt").write_text("/content/set/b/images/t b.png\r\n./a/images/t a.png\n")
    (root / "data.yaml").write_text("train: [a/images, b.txt]\nval: val.txt\nnames: [cat, dog]\n")
    found = read(root)
    assert found.file_names == ("a/images/t a.png", "b/images/t b.png")
    assert found.labels.tolist() == [1, 2, 1]


def label_file(root: Path) -> Path:
    return root / "labels" / "train" / "t a.txt"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("0 0.5 0.5 0.2", ["line 1", "has 3 numbers after the class"]),
        ("0 0.5 0.5 0.2 0.2 0.9", ["line 1", "has 5 numbers after the class"]),
        ("\n0 0.1 0.1 0.2 0.1 0.2", ["line 2", "has 5 numbers"]),
        ("cat 0.5 0.5 0.2 0.2", ["line 1", "'cat 0.5 0.5 0.2 0.2'", "a class number"]),
        ("0.5 0.5 0.5 0.2 0.2", ["begins with 0.5"]),
        ("-1 0.5 0.5 0.2 0.2", ["begins with -1"]),
        ("7 0.5 0.5 0.2 0.2", ["is of class 7", "those of classes 0 to 1"]),
        ("0 30 20 10 12", ["outside of 0 to 1", "divided by the image's width"]),
        ("0 nan 0.5 0.2 0.2", ["outside of 0 to 1"]),
    ],
)
def test_yolo_lines_that_are_wrong(made: Callable[[str], Path], text: str, parts: list[str]) -> None:
    root = made("yolo_ultralytics")
    label_file(root).write_text(text)
    error_line(lambda: read(root), str(label_file(root)), *parts)
    assert str(label_file(root)) in "\n".join(check_dataset(root).problems)


def test_yolo_takes_what_editors_write(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    label_file(root).write_bytes(b"\xef\xbb\xbf1 0.5 0.5 0.5 0.5  \r\n\r\n0.0 0.1 0.1 0.2 0.1 0.2 0.2\r\n")
    found = read(root, masks=False)
    assert found.labels.tolist() == [2, 1, 1]
    assert corners(found) == [[15, 10, 45, 30], [6, 4, 12, 8]]
    label_file(root).unlink()
    assert np.diff(read(root, masks=False).first).tolist() == [0, 1], "an image without a text file has no objects"
    for file in (root / "labels" / "train").iterdir():
        file.unlink()
    source = find_detection(root)
    assert source is not None
    places = source.splits["val"]._replace(images=root / "images" / "train")
    error_line(
        lambda: source.reader(places, masks=False, categories=None, problem=None),
        "none of the 2 images",
        "labels/train/<image>.txt",
    )


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("names: {0: cat, x: dog}\ntrain: images/train\n", ["data.yaml", "names is dict"]),
        ("names: 3\ntrain: images/train\n", ["names is str"]),
        ("names: [cat, dog\n", ["is not YAML"]),
        ("names: !!python/object/apply:os.system ['touch pwned']\n", ["is not YAML"]),
        ("- names:\n- cat\n", ["holds list"]),
    ],
)
def test_yolo_names_that_are_wrong(
    made: Callable[[str], Path], text: str, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made("yolo_ultralytics")
    monkeypatch.chdir(root)
    (root / "data.yaml").write_text(text)
    source = find_detection(root)
    assert source is not None
    if text.startswith("- "):
        assert [category.name for category in read(root).categories] == ["0", "1"], "not a data.yaml"
        return
    error_line(lambda: read(root), str(root / "data.yaml"), *parts)
    assert not (root / "pwned").exists()


def test_an_empty_line_among_yolo_names_is_refused(made: Callable[[str], Path]) -> None:
    """A class has the number of its line: without the empty one, all names behind it would be those of others."""
    root = made("yolo_ultralytics")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\n\ndog\n")
    error_line(lambda: read(root), "classes.txt", "an empty line between 'cat' and 'dog'")
    (root / "classes.txt").write_text("1 dog\n0 cat\n")
    error_line(lambda: read(root), "classes.txt has '1 dog' in its first line", "in the order of their numbers")
    (root / "classes.txt").write_text("\ncat\ndog\n\n")
    assert [category.name for category in read(root).categories] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[no, yes]", ["no", "yes"]),
        ("\n  '0': on\n  '1': off", ["on", "off"]),
        ("\n  1: 1e3\n  0: 007", ["007", "1e3"]),
    ],
)
def test_yolo_names_stay_what_was_written(names: str, expected: list[str], made: Callable[[str], Path]) -> None:
    """YAML makes false of no, and 7 of 007."""
    root = made("yolo_ultralytics")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    assert recognize(root).classes == expected
    assert [category.name for category in read(root).categories] == expected


def test_yolo_names_in_another_encoding_are_not_passed_over(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    file = root / "data.yaml"
    file.write_bytes("train: images/train\nval: images/val\nnames: [Möwe, dog]\n".encode("latin-1"))
    error_line(lambda: read(root), "data.yaml is not UTF-8 text")
    file.write_text("train: images/train\nval: images/val\nnames: [Möwe, dog]\n", encoding="utf-16")
    assert recognize(root).classes == ["Möwe", "dog"]


def test_yolo_text_files_of_another_form_are_named_where_a_file_declares_them(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    for file in (root / "labels").rglob("*.txt"):
        file.write_text("cat 0.5 0.5 0.2 0.2\n")
    assert recognize(root).layout == "yolo"
    error_line(lambda: read(root), "line 1, holds 'cat 0.5 0.5 0.2 0.2', expected a class number")


def test_names_that_other_systems_take_for_the_same(made: Callable[[str], Path]) -> None:
    """An image whose text file is not found would be learned as one without objects."""
    for name, folder, ending in (("yolo_ultralytics", "labels/train", ".txt"), ("voc", "Annotations", ".xml")):
        root = made(name)
        expected = read(root)
        stem = Path(expected.file_names[0]).stem
        for file in (*root.rglob(f"{stem}.*"),):
            renamed = "Caf\u00e9" if file.suffix != ending else "cafe\u0301"
            file.rename(file.with_name(renamed + file.suffix))
        lists = root / "ImageSets" / "Main"
        for file in lists.glob("*.txt") if lists.is_dir() else ():
            file.write_text(file.read_text().replace(stem, "Caf\u00e9"))
        assert len(read(root).boxes) == len(expected.boxes), folder
        assert not [note for note in recognize(root).notes if "text file" in note]


def test_yolo_text_files_without_an_image_are_counted(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    (root / "images" / "train" / "t b.png").unlink()
    assert "t b.txt: 1 text files of train have no image, and are left out" in recognize(root).notes


def test_yolo_without_names_and_beside_the_images(tmp_path: Path, made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    (root / "data.yaml").unlink()
    assert [category.name for category in read(root).categories] == ["0", "1"]
    flat = tmp_path / "flat"
    flat.mkdir()
    for folder in ("images", "labels"):
        for file in (root / folder / "train").iterdir():
            file.rename(flat / file.name)
    (flat / "classes.txt").write_text("cat\r\ndog\r\n")
    source = find_detection(flat)
    assert source is not None
    assert (source.layout, source.train_split, source.val_split) == ("yolo", "all", "all")
    assert [category.name for category in source.read("all").categories] == ["cat", "dog"]


def test_yolo_lists_of_images(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    (root / "part.txt").write_text("./images/train/t b.png\n/elsewhere/images/val/v a.png\n")
    (root / "data.yaml").write_text("train: part.txt\nval: images/val\nnames: [cat, dog]\n")
    found = read(root)
    assert found.file_names == ("images/train/t b.png", "images/val/v a.png")
    assert found.labels.tolist() == [1, 1, 2]


def test_yolo_sizes_are_upright_and_damaged_images_stay_to_be_named(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    image = Image.new("RGB", (HEIGHT, WIDTH))
    exif = image.getexif()
    exif[0x0112] = 6
    (root / "images" / "train" / "t a.png").unlink()
    image.save(root / "images" / "train" / "t a.jpg", exif=exif.tobytes())
    (root / "images" / "train" / "t b.png").write_bytes(b"x")
    found = read(root)
    assert found.image_sizes.tolist() == [[HEIGHT, WIDTH], [1, 1]]
    assert found.skipped == {"on an image that cannot be read": [3]}


# ----------------------------------------------------------------------------------------------------------------- VOC


def xml_file(root: Path) -> Path:
    return root / "Annotations" / "t a.xml"


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("<xmin>10</xmin>", "<xmin>ten</xmin>", ["object 1 has xmin='ten', expected a number"]),
        ("<xmin>10</xmin>", "", ["object 1 has xmin=None"]),
        ("<name>cat</name>", "<name> </name>", ["object 1 has no name"]),
        ("<bndbox>", "<box>", ["is not XML"]),
        ("<annotation>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>", ["declares a document type"]),
        ("<annotation>", "<!DOCTYPE a SYSTEM 'file:///etc/passwd'><annotation>", ["declares a document type"]),
    ],
)
def test_voc_files_that_are_wrong(made: Callable[[str], Path], old: str, new: str, parts: list[str]) -> None:
    root = made("voc")
    file = xml_file(root)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    error_line(lambda: read(root), str(file), *parts)
    assert str(file) in "\n".join(check_dataset(root).problems)


def test_voc_entities_do_not_expand_in_other_encodings(made: Callable[[str], Path]) -> None:
    root = made("voc")
    text = "<?xml version='1.0' encoding='utf-16'?><!DOCTYPE a [<!ENTITY b 'c'>]><annotation>&b;</annotation>"
    xml_file(root).write_bytes(text.encode("utf-16"))
    error_line(lambda: read(root), str(xml_file(root)), "document type")


def test_voc_as_tools_write_it(made: Callable[[str], Path]) -> None:
    root = made("voc")
    file = xml_file(root)
    text = file.read_text().replace(f"<width>{WIDTH}</width>", "<width>0</width>")
    file.write_text(text.replace("<filename>t a.png", "<filename>C:\\pics\\other.jpg"))
    assert read(root).image_sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    published = file.read_text().replace(
        "<filename>", "<source><database>The VOC2007 Database</database></source><filename>"
    )
    file.write_text(published)
    assert corners(read(root))[0] == [9, 4, 30, 25], "the published files count pixels from 1"
    (root / "JPEGImages" / "t a.png").unlink()
    error_line(lambda: read(root), str(file), "which is not in", "JPEGImages")


def test_a_list_that_names_absent_files_is_no_split(made: Callable[[str], Path]) -> None:
    root = made("voc")
    (root / "ImageSets" / "Main" / "test.txt").write_text("nothing\n")
    source = find_detection(root)
    assert source is not None
    assert list(source.splits) == ["train", "val"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("0.3 0.3 0.9 0.9", "0.1 0.1 0.2 0.3"), "corners"),
        (("0.1 0.1 0.6 0.6", "0.7 0.7 0.2 0.2"), "the upper left corner with width and height"),
    ],
)
def test_yolo_boxes_of_another_form(made: Callable[[str], Path], lines: tuple[str, str], said: str) -> None:
    root = made("yolo_ultralytics_boxes")
    for file in (root / "labels" / "train").iterdir():
        file.write_text("".join(f"{label} {line}\n" for label, line in enumerate(lines)))
    error_line(lambda: read(root), f"all fit as {said}", "write them as the center", "images/train")


def test_voc_boxes_of_another_form(made: Callable[[str], Path]) -> None:
    root = made("voc_roboflow")
    for file in (root / "train").glob("*.xml"):
        text = re.sub(r"<(x|y)max>\d+</", r"<\1max>2</", file.read_text())
        file.write_text(text)
    error_line(lambda: read(root), "all fit as the upper left corner", "write them as corners")


def test_keypoints_are_left_out(made: Callable[[str], Path]) -> None:
    """With a third number for each point, and without it, where the line would be one of a polygon."""
    root = made("yolo_ultralytics_boxes")
    expected = corners(read(root))
    for numbers in ("0.4 0.4 2 0.6 0.6 0", "0.4 0.4 0.6 0.6"):
        for file in (root / "labels").rglob("*.txt"):
            lines = [" ".join(line.split()[:5]) for line in file.read_text().splitlines()]
            file.write_text("".join(f"{line} {numbers}\n" for line in lines))
        shape = [2, len(numbers.split()) // 2]
        config = (root / "data.yaml").read_text().split("kpt_shape")[0]
        (root / "data.yaml").write_text(f"{config}kpt_shape: {shape}\n")
        assert corners(read(root)) == expected
        found = recognize(root)
        assert "the keypoints beside the boxes are not learned" in found.notes
        assert not found.fields["masks"]


def test_a_training_split_without_text_files_is_not_passed_over(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    for file in (root / "labels" / "train").iterdir():
        file.rename(file.with_name(f"label_{file.name}"))
    assert list(recognize(root).counts) == ["train", "val"]
    error_line(lambda: read(root), "none of the 2 images in", "has a text file; expected", "labels/train")
    assert any("none of the 2 images" in problem for problem in check_dataset(root).problems)


def test_images_without_text_files_are_counted(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    label_file(root).unlink()
    assert "1 of 2 images in train have no text file: images without objects" in recognize(root).notes


def test_a_split_to_evaluate_on_alone_is_said(made: Callable[[str], Path]) -> None:
    root = made("coco")
    (root / "annotations" / "instances_train.json").unlink()
    assert (
        "only val has annotations that are known here; it is trained on, but for a part of it" in recognize(root).notes
    )


def test_boxes_among_polygons_are_checked_as_they_are_trained(made: Callable[[str], Path]) -> None:
    root = made("yolo_ultralytics")
    label_file(root).write_text("0 0.5 0.5 0.2 0.2\n")
    assert "boxes only: no masks are trained" in recognize(root).notes
    assert not any("mask" in problem for problem in check_dataset(root).problems)


# ------------------------------------------------------------------------------------------------------------- LabelMe


def shape(kind: str, points: Sequence[Sequence[float]], **more: Any) -> dict[str, Any]:
    return {"label": "cat", "shape_type": kind, "points": points, **more}


def one_labelme(tmp_path: Path, *shapes: Any) -> Path:
    write_image(tmp_path / "x.png", size=(HEIGHT, WIDTH))
    content = {"version": "5", "imagePath": "x.png", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": list(shapes)}
    (tmp_path / "x.json").write_text(json.dumps(content))
    return tmp_path


def test_labelme_shapes(tmp_path: Path) -> None:
    ring = [[5, 5], [20, 5], [20, 15]]
    root = one_labelme(
        tmp_path,
        shape("polygon", ring, group_id=3),
        shape("polygon", [[30, 20], [40, 20], [40, 30]], group_id=3),
        shape("polygon", ring, group_id=None),
        shape("circle", [[30, 20], [30, 30]]),
        shape("line", [[1, 1], [5, 5]]),
        shape("point", [[1, 1]]),
    )
    found = read(root, "all")
    assert corners(found) == [[5, 5, 40, 30], [5, 5, 20, 15], [20, 10, 40, 30]]
    assert found.skipped == {"a line, which is no object": [4], "a point, which is no object": [5]}
    assert found.areas.tolist() == pytest.approx([125, 75, 314], rel=0.01)
    rectangles = read(one_labelme(tmp_path, shape("rectangle", [[20, 15], [5, 5]])), "all")
    assert corners(rectangles) == [[5, 5, 20, 15]]
    assert rectangles.segmentations is None


def png(pixels: np.ndarray) -> str:
    """A mask as LabelMe stores it: a PNG in base64."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return base64.b64encode(content.getvalue()).decode()


def test_labelme_masks(tmp_path: Path) -> None:
    """Both points are inside: columns 5 to 8, rows 3 to 5. Masks of one group are one object."""
    pytest.importorskip("faster_coco_eval")
    part = np.ones((3, 4), dtype=bool)
    part[0, 0] = False
    root = one_labelme(
        tmp_path,
        shape("mask", [[5, 3], [8, 5]], mask=png(part)),
        shape("mask", [[5, 3], [8, 5]], mask=png(part.astype(np.uint8)), group_id=1),
        shape("mask", [[20, 30], [21, 30]], mask=png(np.ones((1, 2), dtype=bool)), group_id=1),
    )
    found = read(root)
    assert corners(found) == [[5, 3, 9, 6], [5, 3, 22, 31]]
    assert found.areas.tolist() == [11, 13]
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[3:6, 5:9] = part
    assert np.array_equal(found.mask(0), expected)
    expected[30, 20:22] = 1
    assert np.array_equal(found.mask(1), expected)
    source = find_detection(root)
    assert source is not None
    assert source.masks


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (shape("mask", [[5, 3], [8, 5]]), ["has a mask that cannot be decoded: the file is empty"]),
        (shape("mask", [[5, 3], [8, 5]], mask="?"), ["has a mask that is not base64"]),
        (shape("mask", [[5, 3], [8, 5]], mask="JVBERi0xLjcK"), ["cannot be decoded: a PDF file"]),
        (
            shape("mask", [[5, 3], [8, 5]], mask=png(np.ones((2, 2), bool))),
            ["of 2 x 2 pixels, and points for 4 x 3"],
        ),
        (shape("mask", [[58, 3], [61, 5]], mask=png(np.ones((3, 4), bool))), ["lies outside of its image"]),
        ("x", ["shape 1 is str"]),
        ({"label": None, "points": [[1, 1]]}, ["shape 1 has the label None"]),
        (shape("polygon", [[1, 2], [3]]), ["shape 1 has points that are not pairs"]),
        (shape("polygon", [[1, 2], [3, float("nan")]]), ["not pairs of finite numbers"]),
        (shape("rectangle", [[1, 2]]), ["is a rectangle of 1 points"]),
        (shape("blob", [[1, 2], [3, 4]]), ["is a blob of 2 points, which is not known here"]),
    ],
)
def test_labelme_shapes_that_are_wrong(tmp_path: Path, wrong: Any, parts: list[str]) -> None:
    root = one_labelme(tmp_path, wrong, shape("polygon", [[5, 5], [20, 5], [20, 15]]))
    error_line(lambda: read(root, "all"), str(root / "x.json"), *parts)
    counted = read(root, "all", problem=lambda *_: None)
    assert corners(counted) == [[5, 5, 20, 15]], "the others are read where problems are only counted"


def test_labelme_files_that_are_wrong(made: Callable[[str], Path]) -> None:
    root = made("labelme")
    file = root / "train" / "t a.json"
    for text, part in (("{", "is not JSON"), ("[]", "no list 'shapes'"), ("[" * 100_000, "is not JSON")):
        file.write_text(text)
        error_line(lambda: read(root), str(file), part)


# ---------------------------------------------------------------------------------------------------------------- CVAT


def one_cvat(tmp_path: Path, shapes: str) -> Path:
    write_image(tmp_path / "images" / "sub" / "x.png", size=(HEIGHT, WIDTH))
    image = f"<image id='0' name='sub/x.png' width='{WIDTH}' height='{HEIGHT}'>{shapes}</image>"
    labels = "<meta><task><labels><label><name>dog</name></label><label><name>cat</name></label></labels></task></meta>"
    (tmp_path / "annotations.xml").write_text(f"<annotations><version>1.1</version>{labels}{image}</annotations>")
    return tmp_path


def test_cvat_shapes(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    root = one_cvat(
        tmp_path,
        "<box label='cat' xtl='5' ytl='6' xbr='25' ybr='16'/>"
        "<box label='dog' xtl='5' ytl='6' xbr='25' ybr='16' rotation='90'/>"
        "<polyline label='cat' points='1,1;2,2'/><tag label='dog'/>",
    )
    found = read(root, "all")
    assert [category.name for category in found.categories] == ["dog", "cat"], "in the order that CVAT declares"
    assert found.labels.tolist() == [2, 1]
    assert corners(found) == [[5, 6, 25, 16], [10, 1, 20, 21]]
    assert found.skipped == {"a polyline, which is no object": [3]}
    masks = read(one_cvat(tmp_path, "<mask label='cat' rle='1, 2, 3' left='10' top='20' width='3' height='2'/>"), "all")
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[20, 11:13] = 1
    assert np.array_equal(masks.mask(0), expected)


@pytest.mark.parametrize(
    ("shapes", "parts"),
    [
        ("<box label='cat' xtl='5' ytl='x' xbr='25' ybr='16'/>", ["a box has ytl='x'"]),
        ("<polygon label='cat' points='1,1;2'/>", ["a polygon has the points '1,1;2'"]),
        ("<polygon label='cat' points='1,1;nan,2'/>", ["a polygon has the points"]),
        ("<mask label='cat' rle='1,2' left='0' top='0' width='3' height='2'/>", ["a mask has run lengths"]),
        ("<mask label='cat' rle='6' left='59' top='0' width='3' height='2'/>", ["outside of its image"]),
        ("</image><track/><image>", ["tracks of a video", "CVAT for images 1.1"]),
    ],
)
def test_cvat_files_that_are_wrong(tmp_path: Path, shapes: str, parts: list[str]) -> None:
    root = one_cvat(tmp_path, shapes)
    error_line(lambda: read(root, "all"), str(root / "annotations.xml"), *parts)


def test_nothing_is_found_in_other_folders(tmp_path: Path) -> None:
    assert find_detection(tmp_path) is None
    write_image(tmp_path / "train" / "cat" / "1.png")
    (tmp_path / "train" / "cat" / "notes.json").write_text("{}")
    (tmp_path / "train" / "cat" / "1.txt").write_text("a cat")
    (tmp_path / "config.xml").write_text("<config/>")
    assert find_detection(tmp_path) is None
