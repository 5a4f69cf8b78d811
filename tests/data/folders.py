"""The same few scenes in every arrangement that docs/data.md lists: what tests of layouts read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from .helpers import write_image

SIZE = (24, 32)
TRAIN, VAL = 6, 3
SPLITS = {"train": range(TRAIN), "val": range(TRAIN, TRAIN + VAL)}
COLORS = ((0, 0, 0), (200, 30, 30), (30, 200, 30))
LABELMAP = "# label:color_rgb:parts:actions\r\nground:0,0,0::\r\nleaf:200,30,30::\r\nstem:30,200,30::\r\n"


@cache
def labels(number: int) -> np.ndarray:
    """The class indices of a scene: the ground and two of the embedded handwritten digits, a class each."""
    ink = load_digits().images > 7
    values = np.zeros(SIZE, dtype=np.uint8)
    for label, (row, column) in enumerate(((2, 1), (6, 16)), start=1):
        digit = ink[2 * number + label - 1].repeat(2, axis=0).repeat(2, axis=1)
        values[row : row + 16, column : column + 16][digit] = label
    return values


def write_mask(path: Path, number: int, *, values: tuple[int, ...] | None = None, color: bool = False) -> None:
    """The label file of a scene: class indices, other numbers for them, or colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.array(COLORS if color else values or (0, 1, 2), dtype=np.uint8)
    Image.fromarray(table[labels(number)]).save(path)


def write_scene(
    image: Path, mask: Path, number: int, *, values: tuple[int, ...] | None = None, color: bool = False
) -> None:
    """The image of a scene, its digits in their colors, and its label file."""
    write_image(image, seed=number, size=SIZE)
    ground = np.asarray(Image.open(image).convert("RGB")) // 4
    Image.fromarray(ground + np.array(COLORS, dtype=np.uint8)[labels(number)] // 2).save(image)
    write_mask(mask, number, values=values, color=color)


def _by_kind(images: str, masks: str, *, names: tuple[str, str] = ("train", "val")) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for name, split in zip(names, SPLITS, strict=True):
            for number in SPLITS[split]:
                write_scene(root / images / name / f"{number}.jpg", root / masks / name / f"{number}.png", number)

    return write


def _pattern(image: str, mask: str, *, splits: bool = True) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for split, numbers in SPLITS.items():
            for number in numbers:
                place = {"s": split if splits else "", "n": number}
                write_scene(root / image.format(**place), root / mask.format(**place), number)

    return write


def _voc(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for number in numbers:
            write_scene(root / "JPEGImages" / f"{number}.jpg", root / "SegmentationClass" / f"{number}.png", number)
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_bytes(b"\xef\xbb\xbf" + "".join(f"{n} \r\n" for n in numbers).encode())


def _colored(file: str, text: str) -> Callable[[Path], None]:
    """Masks of colors, and the file that names them."""

    def write(root: Path) -> None:
        for split, numbers in SPLITS.items():
            for number in numbers:
                image, mask = (root / kind / split / f"{number}.png" for kind in ("images", "masks"))
                write_scene(image, mask, number, color=True)
        (root / file).write_text(text)

    return write


def _levels(*values: int) -> Callable[[Path], None]:
    """Masks of other numbers; with two of them the digits are one class."""

    def write(root: Path) -> None:
        for split, numbers in SPLITS.items():
            for number in numbers:
                image, mask = (root / kind / split / f"{number}.png" for kind in ("images", "masks"))
                write_scene(image, mask, number, values=values)

    return write


def _from_one(root: Path) -> None:
    _levels(1, 2, 3)(root)
    (root / "classes.txt").write_text("ground\nleaf\nstem\n")


def _palette_files(root: Path) -> None:
    """PNG files with a palette, as VOC's: their numbers count."""
    _by_kind("JPEGImages", "SegmentationClass")(root)
    for file in (root / "SegmentationClass").rglob("*.png"):
        mask = Image.open(file)
        mask.putpalette([part for color in COLORS for part in color])
        mask.save(file)


def _ade20k(root: Path) -> None:
    for name, split in zip(("training", "validation"), SPLITS, strict=True):
        for number in SPLITS[split]:
            image, mask = (root / kind / name / f"{number}.jpg" for kind in ("images", "annotations"))
            write_scene(image, mask.with_suffix(".png"), number, values=(1, 2, 3))


def _cityscapes(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for number in numbers:
            image = root / "leftImg8bit" / split / "bonn" / f"bonn_{number}_leftImg8bit.png"
            mask = root / "gtFine" / split / "bonn" / f"bonn_{number}_gtFine_labelIds.png"
            write_scene(image, mask, number, values=(7, 8, 11))


PUBLISHED: dict[str, Callable[[Path], None]] = {
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
    "coco_stuff": _by_kind("images", "annotations", names=("train2017", "val2017")),
}
"""Arrangements of published sets."""

SEGMENTATION: dict[str, Callable[[Path], None]] = {
    "images/masks": _by_kind("images", "masks"),
    "images/labels": _by_kind("images", "labels", names=("train", "valid")),
    "img_dir/ann_dir": _by_kind("img_dir", "ann_dir"),
    "Images/Annotations": _by_kind("Images", "Annotations", names=("Train", "Validation")),
    "split first": _pattern("{s}/images/{n}.jpg", "{s}/masks/{n}.png"),
    "side by side": _pattern("{s}/{n}.jpg", "{s}_masks/{n}_mask.gif"),
    "camvid": _pattern("{s}/{n}.png", "{s}annot/{n}.png"),
    "beside, in splits": _pattern("{s}/{n}.jpg", "{s}/{n}_mask.png"),
    "pascal voc": _voc,
    "JPEGImages/SegmentationClass": _palette_files,
    "colors in labelmap.txt": _colored("labelmap.txt", LABELMAP),
    "colors in classes.txt": _colored("classes.txt", "ground 0 0 0\nleaf 200 30 30\nstem 30 200 30\n"),
    "colors in class_dict.csv": _colored(
        "class_dict.csv", "name,r,g,b\nground,0,0,0\nleaf,200,30,30\nstem,30,200,30\n"
    ),
    "colors in palette.json": _colored(
        "palette.json", '{"ground": [0, 0, 0], "leaf": "#c81e1e", "stem": [30, 200, 30]}'
    ),
    "levels": _levels(0, 128, 255),
    "from 1": _from_one,
}
"""Arrangements with a training and a validation split."""

BINARY: dict[str, Callable[[Path], None]] = {"0 and 255": _levels(0, 255, 255), "0 and 1": _levels(0, 1, 1)}
"""Masks of two classes."""

FLAT: dict[str, Callable[[Path], None]] = {
    "flat": _pattern("images/{n}.jpg", "masks/{n}.png", splits=False),
    "beside": _pattern("{n}.jpg", "{n}_mask.png", splits=False),
    "JPEGImages/SegmentationClass, flat": _pattern("JPEGImages/{n}.jpg", "SegmentationClass/{n}.png", splits=False),
    "other beginnings": _pattern("images/image_{n}.png", "masks/mask_{n}.png", splits=False),
}
"""Arrangements without splits."""


def class_folders(root: Path, *splits: str, count: int = 5) -> None:
    """Two classes in each of the folders, or in root itself."""
    for place, split in enumerate(splits or ("",)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                write_image(root / split / name / f"{number}.png", seed=100 * place + 10 * label + number)


def table(root: Path, *, folder: str = "train_images", ending: str = ".png", named: bool = True) -> None:
    """Kaggle's: train.csv and images in folders, of which those to predict have no labels."""
    for number in range(8):
        write_image(root / folder / f"{number}{ending}", seed=number)
        write_image(root / "test_images" / f"{number}{ending}", seed=50 + number)
    rows = [f"{number}{ending if named else ''},{'dog' if number % 2 else 'cat'}" for number in range(8)]
    (root / "train.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["image_id,label", *rows, ""]).encode())
    (root / "sample_submission.csv").write_text("image_id,label\n")
