"""What a folder is recognized as; that every arrangement gives the same scenes; every message about the others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.data import (
    ClassificationData,
    SegmentationData,
    UnfitDataError,
    UnknownLayoutError,
    check_dataset,
    check_validation,
    eval_loader,
    eval_segmentation_loader,
    layouts,
    recognize,
    segmentation_classes,
    segmentation_folder,
    train_loader,
)
from a2mamba.data.classification.tables import read_table
from a2mamba.evaluation import MeanIoU

from .folders import BINARY, FLAT, SEGMENTATION, TRAIN, VAL, class_folders, labels, table, write_scene
from .helpers import error_line, write_image

MIOU = 53.633431801173735  # of the evaluation scenes' labels, two pixels aside
GOLDEN = Path(__file__).parents[1] / "assets" / "messages_of_folders.json"


@pytest.mark.parametrize("name", SEGMENTATION)
def test_every_arrangement_of_masks_gives_the_same_scenes(name: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    SEGMENTATION[name](root)
    found = recognize(root)
    assert (found.task, found.layout, list(found.counts.values())) == ("segmentation", "folder", [TRAIN, VAL])
    assert len(found.classes) == 3
    data = found.place(SegmentationData(root="elsewhere", workers=0))
    assert segmentation_classes(data) == found.classes
    train, _ = found.counts
    dataset = segmentation_folder(data, train)
    assert [int(re.sub(r"\D", "", Path(path).stem)) for path in map(dataset.path, range(TRAIN))] == list(range(TRAIN))
    for number in range(TRAIN):
        assert np.array_equal(dataset[number].target.numpy(), labels(number))
    metric = MeanIoU(len(found.classes))
    for number, image in enumerate(eval_segmentation_loader(data, classes=found.classes), start=TRAIN):
        assert np.array_equal(image.target.numpy(), labels(number))
        metric.update(torch.from_numpy(np.roll(labels(number), 2, axis=1)), image.target)
    assert dict(metric.results())["miou"] == pytest.approx(MIOU, abs=1e-9)
    check_validation(found)
    assert check_dataset(root).problems == []


@pytest.mark.parametrize("name", FLAT)
def test_a_part_of_a_flat_folder_is_held_out(name: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    FLAT[name](root)
    found = recognize(root)
    assert (found.layout, list(found.counts.values()), found.holdout) == ("folder", [TRAIN + VAL], 0.2)
    assert found.training_images == 7
    data = found.place(SegmentationData(root="elsewhere", workers=0))
    held_out = [image.path for image in eval_segmentation_loader(data)]
    assert len(held_out) == 2
    assert held_out == [image.path for image in eval_segmentation_loader(data)]
    assert "20% of them held out" in found.sentence()


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"),
        ("train", "valid"),
        ("training", "validation"),
        ("Train", "Val"),
        ("training_set", "test_set"),
        ("TRAIN", "TEST"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
def test_class_folders_in_splits_of_any_name(train: str, val: str, tmp_path: Path) -> None:
    class_folders(tmp_path, train, val)
    found = recognize(tmp_path)
    assert (found.task, found.layout, found.counts) == ("classification", "class_folders", {train: 10, val: 10})
    data = found.place(ClassificationData(root="elsewhere", workers=0, batch_size=2))
    assert len(train_loader(data, seed=0)) == 5
    assert sum(len(batch.targets) for batch in eval_loader(data)) == 10


def test_class_folders_without_splits(tmp_path: Path) -> None:
    class_folders(tmp_path)
    found = recognize(tmp_path)
    assert (found.counts, found.holdout, found.classes) == ({"": 10}, 0.2, ["cat", "dog"])


def test_classes_may_be_called_like_kinds_of_files(tmp_path: Path) -> None:
    for label, name in enumerate(("mask", "no_mask")):
        for number in range(3):
            write_image(tmp_path / name / f"{number}.png", seed=10 * label + number)
    assert recognize(tmp_path).classes == ["mask", "no_mask"]


@pytest.mark.parametrize(("folder", "named"), [("train_images", True), ("train", False), ("images/all", True)])
def test_a_table_of_images(folder: str, named: bool, tmp_path: Path) -> None:
    table(tmp_path, folder=folder, named=named)
    if folder == "images/all":
        text = (tmp_path / "train.csv").read_text().replace("\r\n", "\n")
        (tmp_path / "train.csv").write_text(re.sub(r"(?m)^(\d)", r"images/all/\1", text))
    found = recognize(tmp_path)
    assert (found.task, found.layout, found.counts) == ("classification", "csv", {"train": 8})
    assert found.classes == ["cat", "dog"]
    data = found.place(ClassificationData(root="elsewhere", workers=0, batch_size=2, image_size=32))
    held_out = next(iter(eval_loader(data)))
    assert len(held_out.paths) == 2
    for path, target in zip(held_out.paths, held_out.targets.tolist(), strict=True):
        assert int(Path(path).stem) % 2 == target
    assert not set(held_out.paths) & {path for batch in train_loader(data, seed=0) for path in batch.paths}
    assert check_dataset(tmp_path).problems == []


def test_two_tables(tmp_path: Path) -> None:
    table(tmp_path)
    for number in range(3):
        write_image(tmp_path / "val" / f"v{number}.png", seed=80 + number)
    (tmp_path / "val.csv").write_text("filename;class\nv0.png;cat\nv1.png;cat\nv2.png;cat\n")
    found = recognize(tmp_path)
    assert found.counts == {"train": 8, "val": 3}
    data = found.place(ClassificationData(root="elsewhere", workers=0, batch_size=2))
    (batch,) = eval_loader(data)
    assert batch.targets.tolist() == [0, 0, 0]  # it lacks the dogs
    assert check_dataset(tmp_path).problems == ["val: no images of 1 of 2 classes: dog"]


def test_a_table_with_a_column_of_splits(tmp_path: Path) -> None:
    """Rows of a test split are not trained on, rows that are there twice count once, and any delimiter will do."""
    table(tmp_path)
    rows = [f"{n}.png|{'dog' if n % 2 else 'cat'}|{'train' if n < 6 else 'Test'}" for n in range(8)]
    (tmp_path / "train.csv").unlink()
    (tmp_path / "labels.csv").write_text("\n".join(["image|label|split", *rows, rows[0], ""]))
    found = recognize(tmp_path)
    assert (found.counts, found.classes, found.holdout) == ({"train": 6, "Test": 2}, ["cat", "dog"], 0.0)
    data = found.place(ClassificationData(root="elsewhere", workers=0, batch_size=2))
    (batch,) = eval_loader(data)
    assert sorted(Path(path).name for path in batch.paths) == ["6.png", "7.png"]
    assert sorted(Path(p).stem for batch in train_loader(data, seed=0) for p in batch.paths) == list("012345")
    check_validation(found)
    assert check_dataset(tmp_path).problems == []


@pytest.mark.parametrize(
    "found",
    [
        [str(number) for number in range(120)],  # ids of classes
        [f"{number}.0" for number in range(120)],  # which were floats on their way
        [f"1.{number}" for number in range(60)],  # chapters
        [f"caption {number}" for number in range(120)],
    ],
)
def test_numbers_may_be_classes(found: list[str], tmp_path: Path) -> None:
    _labels(*found, count=2 * len(found))(tmp_path)
    assert len(recognize(tmp_path).classes) == len(found)


def test_a_column_of_files_is_that_of_the_images(tmp_path: Path) -> None:
    """Whatever columns are called: ids that count rows fit other files."""
    for number in range(8):
        write_image(tmp_path / "images" / f"{number}.png", seed=number)
    rows = [f"{n},{7 - n}.png,{'dog' if n % 2 else 'cat'}" for n in range(8)]
    for header in ("id,name,label", "image_id,photo,label"):
        (tmp_path / "train.csv").write_text("\n".join([header, *rows]))
        found = read_table(tmp_path, "train").rows
        assert [(Path(file).stem, label) for file, label in found] == [
            (str(7 - n), "dog" if n % 2 else "cat") for n in range(8)
        ]


def test_files_are_found_as_other_systems_name_them(tmp_path: Path) -> None:
    """Cameras' extensions in upper case, macOS's accents, and names that were typed; two that fit are none."""
    for name in ("1.JPG", "IMG_2.jpeg", normalize("NFD", "café.png"), "Twice.png", "TWICE.png"):
        write_image(tmp_path / "images" / name, seed=len(name))
    names = ("1", "img_2.JPEG", normalize("NFC", "café.png"), "twice.png")
    (tmp_path / "train.csv").write_text("\n".join(["image,label", *(f"{name},cat" for name in names)]))
    found = read_table(tmp_path, "train")
    assert [Path(file).name for file, _ in found.rows] == ["1.JPG", "IMG_2.jpeg", normalize("NFD", "café.png")]
    assert found.missing == ["twice.png"]


@pytest.mark.parametrize("mark", [";", ",", "\t"])
def test_the_line_that_excel_reads_is_no_header(mark: str, tmp_path: Path) -> None:
    table(tmp_path)
    text = (tmp_path / "train.csv").read_text("utf-8-sig").replace(",", mark)
    (tmp_path / "train.csv").write_bytes(f"\ufeffsep={mark}\r\n{text}".encode())
    assert recognize(tmp_path).counts == {"train": 8}


def test_tables_of_something_else_are_left_alone(tmp_path: Path) -> None:
    """Whatever is in them: class folders are not refused for a list in another encoding."""
    class_folders(tmp_path, "train", "val")
    (tmp_path / "Fotos Liste.csv").write_bytes("Größe;Ort\n1;Köln\n".encode("latin-1"))
    assert recognize(tmp_path).layout == "class_folders"


def test_sizes_of_images_are_no_boxes(tmp_path: Path) -> None:
    table(tmp_path)
    rows = [f"{number}.png,20,24,{'cat' if number % 2 else 'dog'}" for number in range(8)]
    (tmp_path / "train.csv").write_text("\n".join(["image,width,height,label", *rows]))
    assert recognize(tmp_path).classes == ["cat", "dog"]


def test_measurements_are_refused_without_recognition(tmp_path: Path) -> None:
    _labels(*(f"{number / 7:.3f}" for number in range(150)))(tmp_path)
    data = ClassificationData(root=str(tmp_path), source="csv", workers=0, batch_size=2)
    error_line(lambda: train_loader(data, seed=0), "train.csv", "150 different numbers", "measurements")


@pytest.mark.parametrize("start", ["train_images\\", "C:\\me\\train_images\\", "/content/set/train_images/", "./"])
def test_tables_written_on_another_machine(start: str, tmp_path: Path) -> None:
    table(tmp_path)
    rows = [f"{start}{n}.png;{'dog' if n % 2 else 'cat'}" for n in range(8)]
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["image;label", *rows, ""]).encode())
    found = read_table(tmp_path, "train")
    assert found.rows == [(str(tmp_path / "train_images" / f"{n}.png"), "dog" if n % 2 else "cat") for n in range(8)]


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    table(tmp_path)
    with (tmp_path / "train.csv").open("a") as file:
        file.write("8.png,\n,cat\n9.png\n,\n")
    found = recognize(tmp_path)
    assert (found.counts, found.notes) == (
        {"train": 8},
        ["3 rows of train.csv lack an image or a label, and are left out"],
    )


def test_splits_of_two_spellings_are_one(tmp_path: Path) -> None:
    table(tmp_path)
    rows = [
        f"{n}.png,{'dog' if n % 2 else 'cat'},{'val' if n > 5 else 'Train' if n > 3 else 'train'}" for n in range(8)
    ]
    (tmp_path / "train.csv").write_text("\n".join(["image,label,split", *rows]))
    assert list(recognize(tmp_path).counts.values()) == [6, 2]


def test_quoted_names(tmp_path: Path) -> None:
    table(tmp_path)
    rows = [f'"{n}.png","{"dog, old" if n % 2 else "cat"}"' for n in range(8)]
    (tmp_path / "train.csv").write_text("\n".join(['"image","label"', *rows]))
    assert recognize(tmp_path).classes == ["cat", "dog, old"]


def test_classes_with_the_same_name_are_said(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "Cat ").mkdir()
    for number in range(3):
        write_image(tmp_path / "Cat " / f"{number}.png", seed=70 + number)
    said = "classes with the same name, but for upper and lower case, are learned apart: 'cat' = 'Cat '"
    assert recognize(tmp_path).notes == [said]
    assert check_dataset(tmp_path).problems == [said]


def test_what_systems_add_is_no_class_and_no_image(tmp_path: Path) -> None:
    class_folders(tmp_path)
    for place in ("Thumbs.db", "cat/.DS_Store", "cat/._0.png", "__MACOSX/cat/._0.png", "@eaDir/cat/0.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"\0\5\x16\7")
    found = recognize(tmp_path)
    assert (found.counts, found.classes) == ({"": 10}, ["cat", "dog"])
    check_validation(found)
    assert check_dataset(tmp_path).problems == []


def test_a_validation_split_may_lack_a_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class_folders(tmp_path, "train", "val")
    for file in (tmp_path / "val" / "cat").iterdir():
        file.unlink()
    found = recognize(tmp_path)
    assert found.notes == ["val shows 1 of the 2 classes: not cat"]
    data = found.place(ClassificationData(root="elsewhere", workers=0, batch_size=2))
    (batch,) = eval_loader(data, classes=found.classes)
    assert batch.targets.tolist() == [1] * 5
    assert "no images of 1 of 2 classes (cat)" in caplog.text
    check_validation(found)


def _link_class(root: Path) -> None:
    class_folders(root, "train", "val")
    (root / "val" / "bird").symlink_to(root / "train" / "cat")
    (root / "train" / "bird").symlink_to(root / "train" / "cat")


def _link_masks(root: Path) -> None:
    SEGMENTATION["images/masks"](root)
    for kind in ("images", "masks"):
        for number in range(VAL):
            (root / kind / "val" / f"{TRAIN + number}.{'jpg' if kind == 'images' else 'png'}").unlink()
        (root / kind / "val").rmdir()
        (root / kind / "val").symlink_to(root / kind / "train")


def _list_twice(root: Path) -> None:
    SEGMENTATION["pascal voc"](root)
    lists = root / "ImageSets" / "Segmentation"
    with (lists / "val.txt").open("a") as file:
        file.write("0\n1\n")


def _tables_twice(root: Path) -> None:
    table(root)
    header, *rows = (root / "train.csv").read_text().splitlines()
    (root / "val.csv").write_text("\n".join([header, *rows[5:]]))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_tables_twice, "3 of 3 images of val are those of train"),
        (_link_class, "5 of 15 images of val are those of train"),
        (_link_masks, "6 of 6 images of val are those of train"),
        (_list_twice, "2 of 5 images of val are those of train"),
    ],
)
def test_evaluation_on_training_images_is_said(write: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    write(tmp_path)
    assert [note for note in recognize(tmp_path).notes if said in note]


def test_accents_that_are_written_in_two_ways(tmp_path: Path) -> None:
    for split, name in (("train", "caf\u00e9"), ("val", "cafe\u0301")):
        class_folders(tmp_path, split)
        (tmp_path / split / "cat").rename(tmp_path / split / name)
    assert "accents are written in two ways" in check_dataset(tmp_path).problems[0]


def test_names_of_classes_that_differ_in_case_or_blanks_between_splits(tmp_path: Path) -> None:
    class_folders(tmp_path, "train", "val")
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "Cat ")
    (problem,) = check_dataset(tmp_path).problems
    assert "'cat' and 'Cat ' differ in upper and lower case or blanks alone; rename one" in problem


def test_published_sets_come_first(tmp_path: Path) -> None:
    for number in range(4):
        folder = "train" if number < 3 else "val"
        city = tmp_path / "leftImg8bit" / folder / "bonn" / f"{number}_leftImg8bit.png"
        write_scene(
            city, tmp_path / "gtFine" / folder / "bonn" / f"{number}_gtFine_labelIds.png", number, values=(7, 8, 11)
        )
    found = recognize(tmp_path)
    assert (found.layout, found.counts, len(found.classes)) == ("cityscapes", {"train": 3, "val": 1}, 19)


def test_a_layout_can_be_given(tmp_path: Path) -> None:
    SEGMENTATION["images/masks"](tmp_path)
    assert recognize(tmp_path, "folder").layout == "folder"
    with pytest.raises(ValueError, match="unknown layout 'foldr'; did you mean 'folder'"):
        recognize(tmp_path, "foldr")
    with pytest.raises(UnknownLayoutError, match="not in the layout csv"):
        recognize(tmp_path, "csv")
    assert list(layouts())[-1] == "class_folders"  # after everything that has annotations


# ----------------------------------------------------------------------------- folders of which nothing can be learned


def _images(root: Path, *places: str) -> None:
    for number, place in enumerate(places):
        write_image(root / place, seed=number)


def _supervisely(root: Path) -> None:
    _images(root, "ds/img/1.jpg", "ds/img/2.jpg")
    (root / "ds" / "ann").mkdir()
    (root / "ds" / "ann" / "1.jpg.json").write_text("{}")
    (root / "meta.json").write_text("{}")


def _masks(*values: int) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for split in ("train", "val"):
            for number in range(3):
                image, mask = (root / kind / split / f"{number}.png" for kind in ("images", "masks"))
                write_scene(image, mask, number, values=values)

    return write


def _absent(root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)


def _file(root: Path) -> None:
    _absent(root)
    root.write_text("")


def _empty(root: Path) -> None:
    root.mkdir(parents=True)


def _archive(root: Path) -> None:
    _empty(root)
    (root / "photos.zip").write_bytes(b"PK")


def _colors(root: Path) -> None:
    SEGMENTATION["colors in labelmap.txt"](root)
    (root / "labelmap.txt").unlink()


def _double_names(root: Path) -> None:
    SEGMENTATION["images/masks"](root)
    (root / "classes.txt").write_text("a\na\nb\n")


def _unpaired(root: Path) -> None:
    for number in range(3):
        write_scene(root / "images" / f"{number}.png", root / "masks" / f"other{number}.png", number)


def _table_without_images(root: Path) -> None:
    table(root)
    for file in (root / "train_images").iterdir():
        file.unlink()
    for file in (root / "test_images").iterdir():
        file.unlink()


def _table_of_one_class(root: Path) -> None:
    table(root)
    (root / "train.csv").write_text("image,label\n0.png,cat\n1.png,cat\n")


def _table_without_columns(root: Path) -> None:
    _images(root, "train_images/1.jpg")
    (root / "train.csv").write_text("a,b\n1,2\n")


def _masks_jpeg(root: Path) -> None:
    """Three classes, whose numbers JPEG smears."""
    SEGMENTATION["levels"](root)
    for mask in (root / "masks").rglob("*.png"):
        Image.open(mask).save(mask.with_suffix(".jpg"), quality=80)
        mask.unlink()


def _masks_resized(root: Path) -> None:
    """Three classes, whose numbers were blended by a resize."""
    SEGMENTATION["levels"](root)
    for mask in (root / "masks").rglob("*.png"):
        small = Image.open(mask).resize((19, 13), Image.Resampling.BICUBIC)
        small.resize((32, 24), Image.Resampling.BICUBIC).save(mask)


def _masks_colors_jpeg(root: Path) -> None:
    SEGMENTATION["colors in labelmap.txt"](root)
    for mask in (root / "masks").rglob("*.png"):
        Image.open(mask).save(mask.with_suffix(".jpg"), quality=80)
        mask.unlink()


def _masks_in_alpha(color: str | None) -> Callable[[Path], None]:
    """Masks whose colors are one, or those of the images; half of them are without an object."""

    def write(root: Path) -> None:
        BINARY["0 and 255"](root)
        for number, file in enumerate(sorted((root / "masks").rglob("*.png"))):
            alpha = Image.open(file).point(lambda value, empty=number % 2: 0 if empty else value)
            image = Image.open(root / "images" / file.relative_to(root / "masks")).convert("RGB")
            mask = image if color is None else Image.new("RGB", image.size, color)
            mask.putalpha(alpha)
            mask.save(file)

    return write


def _masks_mixed(root: Path) -> None:
    """Two people, two conventions."""
    BINARY["0 and 1"](root)
    for mask in list((root / "masks" / "train").iterdir())[:3]:
        Image.fromarray(np.asarray(Image.open(mask)) * 255).save(mask)


def _masks_of_val_otherwise(root: Path) -> None:
    BINARY["0 and 1"](root)
    for mask in (root / "masks" / "val").iterdir():
        Image.fromarray(np.asarray(Image.open(mask)) * 255).save(mask)


def _two_labels(root: Path) -> None:
    table(root)
    (root / "train.csv").write_text("image,label\n" + "".join(f"{n}.png,cat\n{n}.png,dog\n" for n in range(6)))


def _two_spellings(root: Path) -> None:
    """One image with two labels, under two names."""
    table(root)
    with (root / "train.csv").open("a") as file:
        file.write("./1,cat\n")


def _palettes(root: Path) -> None:
    """Each program chose a palette of its own: numbers 1 and 2 have changed places in some files."""
    SEGMENTATION["JPEGImages/SegmentationClass"](root)
    for file in sorted((root / "SegmentationClass").rglob("*.png"))[::2]:
        mask = Image.open(file)
        mask.remap_palette([0, 2, 1]).save(file)


def _labels(*found: str, count: int = 150) -> Callable[[Path], None]:
    """A table of `count` images with these labels in turn, and one to evaluate on."""

    def write(root: Path) -> None:
        for number in range(count):
            write_image(root / "images" / f"{number}.png", seed=number, size=(4, 4))
        rows = [f'{number}.png,"{found[number % len(found)]}"' for number in range(count)]
        for split in ("train", "val"):
            (root / f"{split}.csv").write_text("\n".join(["image,target", *rows]))

    return write


def _one_image_of_a_class(root: Path) -> None:
    class_folders(root)
    for number in range(4):
        (root / "cat" / f"{number}.png").unlink()


def _table_without_header(root: Path) -> None:
    table(root, folder="images")
    text = (root / "train.csv").read_text("utf-8-sig")
    (root / "train.csv").write_text(text.split("\n", 1)[1])


def _table_one_hot(root: Path) -> None:
    """A column for each class."""
    table(root)
    (root / "train.csv").write_text("image,cat,dog\n" + "".join(f"{n}.png,{n % 2},{1 - n % 2}\n" for n in range(8)))


def _table_renamed(root: Path) -> None:
    table(root)
    (root / "train.csv").rename(root / "photos.csv")


def _table_in_split(root: Path) -> None:
    """The Hugging Face hub's metadata.csv, which lies beside the images."""
    table(root, folder="train")
    (root / "train.csv").rename(root / "train" / "metadata.csv")
    (root / "sample_submission.csv").unlink()


def _captions_beside(root: Path) -> None:
    class_folders(root, "train", "val")
    for image in root.rglob("*.png"):
        image.with_suffix(".txt").write_text("a photo")


def _masks_as_arrays(root: Path) -> None:
    BINARY["0 and 1"](root)
    for mask in list((root / "masks").rglob("*.png")):
        np.save(mask.with_suffix(".npy"), np.asarray(Image.open(mask)))
        mask.unlink()


def _yolo_in_words(root: Path) -> None:
    _images(root, "images/1.jpg", "images/2.jpg")
    (root / "labels").mkdir()
    for number in "12":
        (root / "labels" / f"{number}.txt").write_text("cat 0.5 0.5 0.2 0.2\n")


def _tool_export(place: str) -> Callable[[Path], None]:
    """Label Studio's JSON, which lists tasks."""

    def write(root: Path) -> None:
        _images(root, *(f"{Path(place).parent}/images/{number}.jpg" for number in range(4)))
        (root / place).write_text(json.dumps([{"id": 1, "annotations": [], "data": {"image": "/data/1.jpg"}}]))

    return write


def _table_of_boxes(*columns: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        table(root)
        rows = [f"{number}.png,{'cat' if number % 2 else 'dog'},1,2,9,9" for number in range(8)]
        (root / "train.csv").write_text("\n".join([",".join(("image", "label", *columns)), *rows]))

    return write


def _masks_without_images(root: Path) -> None:
    """CVAT's export of masks, where "save images" was not chosen."""
    for kind in ("SegmentationClass", "SegmentationObject"):
        _images(root, *(f"{kind}/{number}.png" for number in range(4)))


WRONG: dict[str, Callable[[Path], None]] = {
    "absent": _absent,
    "a file": _file,
    "empty": _empty,
    "images alone": lambda root: _images(root, "1.jpg", "2.jpg", "3.png"),
    "one class": lambda root: _images(root, "train/cat/1.jpg", "train/cat/2.jpg"),
    "a validation split alone": lambda root: class_folders(root, "val"),
    "splits without classes": lambda root: _images(root, "train/1.jpg", "val/2.jpg"),
    "images of masks": lambda root: _images(root, "images/train/1.jpg", "images/val/2.jpg"),
    "a folder too high": lambda root: class_folders(root / "my photos", "train", "val"),
    "an archive": _archive,
    "supervisely": _supervisely,
    "kaggle without columns": _table_without_columns,
    "kaggle without images": _table_without_images,
    "kaggle of one class": _table_of_one_class,
    "masks of zeros": _masks(0, 0, 0),
    "masks of 255": _masks(255, 255, 255),
    "masks of 1 and 255": _masks(1, 255, 1),
    "colors without names": _colors,
    "names given twice": _double_names,
    "masks under other names": _unpaired,
    "masks as jpeg": _masks_jpeg,
    "masks resized": _masks_resized,
    "masks as arrays": _masks_as_arrays,
    "yolo with names for numbers": _yolo_in_words,
    "colors as jpeg": _masks_colors_jpeg,
    "masks in the alpha channel of black": _masks_in_alpha("black"),
    "masks in the alpha channel of white": _masks_in_alpha("white"),
    "masks in the alpha channel of photos": _masks_in_alpha(None),
    "masks of two conventions": _masks_mixed,
    "masks of another convention to evaluate on": _masks_of_val_otherwise,
    "kaggle with two labels": _two_labels,
    "kaggle with two names of an image": _two_spellings,
    "masks with palettes of their own": _palettes,
    "kaggle with prices": _labels(*(str(99 + 7 * number) for number in range(150))),
    "kaggle with decimals": _labels(*(f"{number / 100:.2f}" for number in range(120)), count=240),
    "kaggle with decimal commas": _labels(*(f"{number / 7:.3f}".replace(".", ",") for number in range(150))),
    "kaggle with captions": _labels(*(f"dog number {number} in a park" for number in range(150))),
    "kaggle without header": _table_without_header,
    "kaggle with a column for each class": _table_one_hot,
    "a table under another name": _table_renamed,
    "a table in the folder of a split": _table_in_split,
    "class folders with captions": _captions_beside,
    "a tool's own export": _tool_export("project.json"),
    "a tool's own export in a split": _tool_export("train/export.ndjson"),
    "a table of boxes": _table_of_boxes("x", "y", "w", "h"),
    "a table of corners": _table_of_boxes("left", "top", "right", "bottom"),
    "masks without images": _masks_without_images,
    "one image of a class": _one_image_of_a_class,
    "a folder too deep": lambda root: _images(root, *(f"train/{c}/images/{n}.jpg" for c in ("a", "b") for n in "12")),
    "classes in classes": lambda root: _images(root, *(f"{c}/{d}/1.jpg" for c in "ab" for d in "cd")),
    "an archive in itself": lambda root: class_folders(root / "photos" / "photos", "train", "val"),
}


def message(write: Callable[[Path], None], root: Path) -> list[str]:
    write(root)
    with pytest.raises((UnknownLayoutError, UnfitDataError)) as caught:
        recognize(root)
    return str(caught.value).replace(str(root), "DIR").splitlines()


def test_messages_about_folders(tmp_path: Path) -> None:
    """Each was read by a person as the one who made the folder; write the file anew where one is meant to change."""
    found = {name: message(write, tmp_path / "set" / name.replace(" ", "_")) for name, write in WRONG.items()}
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("name", WRONG)
def test_messages_are_short_and_check_says_the_same(name: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    lines = message(WRONG[name], root)
    assert 1 <= len(lines) <= 5
    try:
        report = check_dataset(root)
    except UnknownLayoutError as error:
        said = str(error)
    else:
        (said,) = report.problems
    assert said.replace(str(root), "DIR").splitlines() == lines
