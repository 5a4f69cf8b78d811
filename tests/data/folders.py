"""The same few scenes in every arrangement that docs/data.md lists: what tests of layouts read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from .helpers import write_image

SIZE = (24, 32)
TRAIN, VAL = 6, 3
SPLITS = {"train": range(TRAIN), "val": range(TRAIN, TRAIN + VAL)}
COLORS = ((0, 0, 0), (200, 30, 30), (30, 200, 30))
LABELMAP = "# label:color_rgb:parts:actions\r\nground:0,0,0::\r\nleaf:200,30,30::\r\nstem:30,200,30::\r\n"


def labels(number: int) -> np.ndarray:
    """The class indices of a scene: three classes, each in another place."""
    values = np.zeros(SIZE, dtype=np.uint8)
    values[2 : 8 + number, 3:12] = 1
    values[10:20, 14 : 18 + number] = 2
    return values


def write_mask(path: Path, number: int, *, values: tuple[int, ...] | None = None, color: bool = False) -> None:
    """The label file of a scene: class indices, other numbers for them, or colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = np.array(COLORS if color else values or (0, 1, 2), dtype=np.uint8)
    Image.fromarray(table[labels(number)]).save(path)


def write_scene(
    image: Path, mask: Path, number: int, *, values: tuple[int, ...] | None = None, color: bool = False
) -> None:
    """The image of a scene, and its label file."""
    write_image(image, seed=number, size=SIZE)
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


def _colored(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for number in numbers:
            image, mask = (root / kind / split / f"{number}.png" for kind in ("images", "masks"))
            write_scene(image, mask, number, color=True)
    (root / "labelmap.txt").write_text(LABELMAP)


def _levels(root: Path) -> None:
    for split, numbers in SPLITS.items():
        for number in numbers:
            image, mask = (root / kind / split / f"{number}.png" for kind in ("images", "masks"))
            write_scene(image, mask, number, values=(0, 128, 255))


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
    "colors": _colored,
    "levels": _levels,
}
"""Arrangements with a training and a validation split."""

FLAT: dict[str, Callable[[Path], None]] = {
    "flat": _pattern("images/{n}.jpg", "masks/{n}.png", splits=False),
    "beside": _pattern("{n}.jpg", "{n}_mask.png", splits=False),
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
