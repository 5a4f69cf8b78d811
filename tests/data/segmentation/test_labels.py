from __future__ import annotations

import pickle
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from a2mamba.data import (
    ADE20K_CLASSES,
    CITYSCAPES_CLASSES,
    COCO_STUFF_CLASSES,
    LabelFileError,
    LabelMap,
    UndecodableImageError,
    ade20k_labels,
    cityscapes_labels,
    class_labels,
    coco_stuff_labels,
    distinct_palette,
    read_labels,
    segmentation_palette,
)

from ..helpers import error_line

# id: train id, as the data set's authors publish them; 255 is ignored.
CITYSCAPES = {
    0: 255,
    1: 255,
    2: 255,
    3: 255,
    4: 255,
    5: 255,
    6: 255,
    7: 0,
    8: 1,
    9: 255,
    10: 255,
    11: 2,
    12: 3,
    13: 4,
    14: 255,
    15: 255,
    16: 255,
    17: 5,
    18: 255,
    19: 6,
    20: 7,
    21: 8,
    22: 9,
    23: 10,
    24: 11,
    25: 12,
    26: 13,
    27: 14,
    28: 15,
    29: 255,
    30: 255,
    31: 16,
    32: 17,
    33: 18,
}
COCO_STUFF = {
    0: 0,
    10: 10,
    12: 11,
    24: 23,
    26: 24,
    27: 25,
    30: 26,
    43: 39,
    45: 40,
    64: 59,
    66: 60,
    69: 61,
    71: 62,
    81: 72,
    83: 73,
    89: 79,
    91: 80,
    181: 170,
    255: 255,
}
DROPPED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)

MAPS = [
    ade20k_labels(),
    ade20k_labels(11),
    ade20k_labels(255),
    cityscapes_labels(),
    coco_stuff_labels(),
    class_labels(3),
]
every_map = pytest.mark.parametrize("labels", MAPS, ids=lambda labels: f"{labels.name} {labels.num_classes}")


def values(*numbers: int) -> np.ndarray:
    return np.array([numbers], dtype=np.uint8)


def test_ade20k_value_by_value() -> None:
    table = ade20k_labels().table().tolist()
    assert table == [255, *range(150), *[-1] * (255 - 151), 255]
    assert ade20k_labels(11).to_classes(values(0, 1, 11, 255)).tolist() == [[255, 0, 10, 255]]
    assert ade20k_labels().to_values(np.array([0, 149, 255])).tolist() == [1, 150, 0]


def test_cityscapes_value_by_value() -> None:
    assert len(CITYSCAPES) == 34
    table = cityscapes_labels().table()
    assert {number: int(table[number]) for number in range(34)} == CITYSCAPES
    assert table[255] == 255
    assert set(table[34:255].tolist()) == {-1}
    inverse = {train: number for number, train in CITYSCAPES.items() if train != 255}
    classes = np.arange(19)
    assert cityscapes_labels().to_values(classes).tolist() == [inverse[train] for train in range(19)]
    assert cityscapes_labels().to_values(np.array([255])).tolist() == [0]


def test_coco_stuff_value_by_value() -> None:
    table = coco_stuff_labels().table()
    assert {number: int(table[number]) for number in COCO_STUFF} == COCO_STUFF
    for number in range(182):
        expected = -1 if number in DROPPED else number - sum(dropped < number for dropped in DROPPED)
        assert table[number] == expected
    assert coco_stuff_labels().num_classes == 171
    assert coco_stuff_labels().to_values(np.array([170, 255])).tolist() == [181, 255]


@every_map
def test_there_and_back(labels: LabelMap) -> None:
    classes = np.array([*range(labels.num_classes), 255], dtype=np.uint8).reshape(1, -1)
    assert np.array_equal(labels.to_classes(labels.to_values(classes)), classes)
    assert labels.to_classes(classes[:, :0]).shape == (1, 0)
    assert labels.to_classes(labels.to_values(classes)).dtype == np.uint8


def test_numbers_without_a_meaning() -> None:
    for labels, number, expected in (
        (ade20k_labels(), 151, "1 to 150 (150 classes)"),
        (cityscapes_labels(), 34, "7 to 33 (19 classes)"),
        (coco_stuff_labels(), 11, "0 to 181 (171 classes)"),
        (class_labels(3), 3, "0 to 2 (3 classes)"),
    ):
        error_line(partial(labels.to_classes, values(number), path="a/b.png"), "a/b.png", str(number), expected)
        wrong = np.array([labels.num_classes])
        error_line(partial(labels.to_values, wrong), f"class {wrong[0]} is out of range")
    error_line(lambda: class_labels(3).to_values(np.array([-1])), "class -1")


def test_bad_maps() -> None:
    error_line(lambda: LabelMap("x", (1, 1)), "different numbers")
    error_line(lambda: LabelMap("x", (1, 256)), "0 to 255")
    error_line(lambda: LabelMap("x", ()), "0 classes")
    error_line(lambda: class_labels(256), "expected")


def gray_png(path: Path, pixels: np.ndarray, bits: int) -> Path:
    """A gray PNG of a depth that Pillow does not write."""
    height, width = pixels.shape
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].reshape(-1)).tobytes() for row in pixels
    )

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_depth_holds_numbers(bits: int, tmp_path: Path) -> None:
    pixels = (np.arange(7 * 5) % 2**bits).astype(np.uint8).reshape(7, 5)
    assert np.array_equal(read_labels(gray_png(tmp_path / "a.png", pixels, bits)), pixels)


def test_palettes_and_16_bits_are_numbers(tmp_path: Path) -> None:
    pixels = np.array([[0, 3, 255], [150, 1, 2]], dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / "palette.png")
    with Image.open(tmp_path / "palette.png") as saved:
        assert saved.mode == "P"
    Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("palette.png", "deep.png"):
        found = read_labels(tmp_path / name)
        assert found.dtype == np.uint8
        assert np.array_equal(found, pixels)
    Image.fromarray(pixels.astype(np.uint16) + 1).save(tmp_path / "deep.png")
    error_line(lambda: read_labels(tmp_path / "deep.png"), "deep.png", "label 256 is out of range")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colors_are_no_numbers(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "color.png"
    Image.new("RGB", (4, 4), (128, 0, 0)).convert(mode).save(file)
    message = error_line(lambda: read_labels(file), str(file), "colors", "labelmap.txt", "8-bit gray PNG")
    with pytest.raises(LabelFileError) as caught:
        read_labels(file)
    copy = pickle.loads(pickle.dumps(caught.value))  # as it comes from a loader's worker
    assert (str(copy), copy.path, type(copy)) == (message, str(file), LabelFileError)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_gray_colors_are_numbers(mode: str, tmp_path: Path) -> None:
    gray = Image.fromarray(np.array([[0, 3, 255]], dtype=np.uint8))
    gray.convert(mode).save(tmp_path / "gray.png")
    assert read_labels(tmp_path / "gray.png").tolist() == [[0, 3, 255]]


def test_transparency_beside_colors_is_dropped(tmp_path: Path) -> None:
    gray = Image.fromarray(np.array([[0, 3, 7]], dtype=np.uint8))
    for mode in ("RGB", "L"):
        mask = gray.convert(mode)
        mask.putalpha(Image.fromarray(np.array([[0, 255, 255]], dtype=np.uint8)))
        mask.save(tmp_path / "mask.png")
        assert read_labels(tmp_path / "mask.png").tolist() == [[0, 3, 7]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_in_the_alpha_channel_is_not_taken_for_one_class(mode: str, tmp_path: Path) -> None:
    mask = Image.new(mode, (4, 4))
    mask.putpixel((1, 1), (*[0] * (len(mode) - 1), 200))
    mask.save(tmp_path / "mask.png")
    error_line(lambda: read_labels(tmp_path / "mask.png"), "mask.png", "one color", "levels 0, 200", 'getchannel("A")')


def test_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "labels.png"
    with pytest.raises(UndecodableImageError, match="No such file"):
        read_labels(file)
    file.write_bytes(b"")
    with pytest.raises(UndecodableImageError, match="empty"):
        read_labels(file)
    file.write_text("no image")
    with pytest.raises(UndecodableImageError, match="known format"):
        read_labels(file)
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (50, 50), dtype=np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:200])
    error_line(lambda: read_labels(file), str(file))


def test_names_and_colors() -> None:
    for names, count in ((ADE20K_CLASSES, 150), (CITYSCAPES_CLASSES, 19), (COCO_STUFF_CLASSES, 171)):
        assert len(set(names)) == len(names) == count
        assert all(name == name.strip() and name for name in names)
    assert (ADE20K_CLASSES[0], ADE20K_CLASSES[12], ADE20K_CLASSES[149]) == ("wall", "person", "flag")
    assert (CITYSCAPES_CLASSES[0], CITYSCAPES_CLASSES[11], CITYSCAPES_CLASSES[18]) == ("road", "person", "bicycle")
    assert (COCO_STUFF_CLASSES[79], COCO_STUFF_CLASSES[80], COCO_STUFF_CLASSES[170]) == ("toothbrush", "banner", "wood")
    assert not {"street sign", "hat", "shoe", "eye glasses", "plate", "mirror", "hair brush"} & set(COCO_STUFF_CLASSES)
    ade20k, cityscapes = segmentation_palette("ade20k", 150), segmentation_palette("cityscapes", 19)
    assert (len(ade20k), len(set(ade20k)), ade20k[0], ade20k[149]) == (150, 149, (120, 120, 120), (92, 0, 255))
    assert zlib.crc32(bytes(channel for color in ade20k for channel in color)) == 3620555175  # of the published list
    assert (len(cityscapes), cityscapes[0], cityscapes[18]) == (19, (128, 64, 128), (119, 11, 32))


def test_made_palettes() -> None:
    for layout, count in (("coco_stuff", 171), ("folder", 4), ("ade20k", 11)):
        assert segmentation_palette(layout, count) == distinct_palette(count)
    colors = distinct_palette(256)
    assert len(set(colors)) == 256
    assert not {(0, 0, 0), (255, 255, 255)} & set(colors)
    assert all(0 <= channel <= 255 for color in colors for channel in color)
    assert distinct_palette(0) == ()
    few = np.array(distinct_palette(12), dtype=int)
    distances = np.abs(few[:, None] - few[None]).max(-1) + 999 * np.eye(12, dtype=int)
    assert distances.min() > 25
    error_line(lambda: distinct_palette(257), "count=257")
