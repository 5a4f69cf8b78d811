from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.data import read_labels
from a2mamba.visualize import class_legend, class_map_image, image_grid, overlay
from data.helpers import error_line

PALETTE = ((200, 10, 10), (10, 200, 10), (10, 10, 200))
CLASSES = np.array([[0, 1, 2, 255], [2, 2, 1, 0]])


@pytest.mark.parametrize("classes", [CLASSES, CLASSES.astype(np.uint8), torch.from_numpy(CLASSES)])
def test_palette_image_is_a_label_file(classes: np.ndarray | torch.Tensor, tmp_path: Path) -> None:
    image = class_map_image(classes, PALETTE)
    assert image.mode == "P"
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_labels(tmp_path / "a.png"), CLASSES)
    with Image.open(tmp_path / "a.png") as file:
        colors = np.asarray(file.convert("RGB"))
    assert colors[0].tolist() == [*map(list, PALETTE), [0, 0, 0]]


def test_overlay() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    colors = np.array([*PALETTE, (0, 0, 0)])[np.where(CLASSES == 255, 3, CLASSES)]
    for opacity in (0.0, 0.3, 1.0):
        found = overlay(image, CLASSES, PALETTE, opacity=opacity)
        expected = pixels * (1 - opacity) + colors * opacity
        expected[0, 3] = pixels[0, 3]  # ignored: the photograph alone
        assert found.mode == "RGB"
        assert np.abs(np.asarray(found) - expected).max() <= 1.5
    assert np.array_equal(np.asarray(image), pixels)  # the caller's image is as it was
    assert overlay(image.convert("L"), CLASSES, PALETTE).mode == "RGB"


def test_grid() -> None:
    red, blue = Image.new("RGB", (40, 20), "red"), Image.new("RGB", (10, 30), "blue")
    truth = class_map_image(CLASSES, PALETTE)
    grid = image_grid([[red, truth], [blue, truth]], headings=("image", "truth"), cell=(50, 100))
    pixels = np.asarray(grid)
    red_area = np.all(pixels == (255, 0, 0), axis=-1)
    blue_area = np.all(pixels == (0, 0, 255), axis=-1)
    assert red_area.sum() == 100 * 50
    assert blue_area.sum() == 17 * 50
    assert np.flatnonzero(red_area.any(1)).max() < np.flatnonzero(blue_area.any(1)).min()
    assert np.all(pixels == PALETTE[1], axis=-1).sum() == 2 * 2 * 25 * 25  # no blended colors
    assert np.all(pixels[:, -4:] == 255)
    classes = ("ground", "leaf", "stem")
    legend = class_legend([CLASSES, torch.zeros(2, 2, dtype=torch.int64)], classes, PALETTE)
    assert legend == [*zip(classes, PALETTE, strict=True)]
    assert class_legend([np.array([[2, 255]])], classes, PALETTE) == [("stem", PALETTE[2])]
    taller = image_grid([[red, truth], [blue, truth]], headings=("image", "truth"), legend=legend, cell=(50, 100))
    assert np.array_equal(np.asarray(taller)[: grid.height], pixels)
    below = np.asarray(taller)[grid.height :]
    assert all(np.any(np.all(below == color, axis=-1)) for color in PALETTE)


def test_bad_input() -> None:
    image = Image.new("RGB", (4, 2))
    error_line(lambda: class_map_image(CLASSES + 1, PALETTE), "class 3 is out of range for a palette of 3")
    error_line(lambda: class_map_image(CLASSES - 1, PALETTE), "class -1")
    error_line(lambda: class_map_image(CLASSES[0], PALETTE), "(H, W)")
    error_line(lambda: class_map_image(CLASSES.astype(float), PALETTE), "float64")
    error_line(lambda: overlay(image.resize((5, 2)), CLASSES, PALETTE), "4 x 2", "5 x 2")
    error_line(lambda: overlay(image, CLASSES, PALETTE, opacity=1.1), "opacity=1.1")
    error_line(lambda: image_grid([], headings=("a",)), "rows of []")
    error_line(lambda: image_grid([[image]], headings=("a", "b")), "expected 2 in each")
