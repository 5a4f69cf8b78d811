"""Heat as colors, over an image, and the mark of a point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from a2mamba.visualize import heat_image, heat_overlay, image_grid, mark_point


def brightness(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L")).astype(int)


def test_more_is_lighter() -> None:
    shades = brightness(heat_image(torch.linspace(0, 5, 64)[None]))[0]
    assert (np.diff(shades) >= 0).all()
    assert shades[0] < 20
    assert shades[-1] > 220


def test_the_top_can_be_given() -> None:
    alone, shared = heat_image(torch.ones(1, 1)), heat_image(torch.ones(1, 1), top=2.0)
    assert brightness(shared)[0, 0] < brightness(alone)[0, 0]
    assert (brightness(heat_image(torch.zeros(2, 2))) < 20).all()


def test_over_an_image_nothing_leaves_it_gray_and_much_covers_it() -> None:
    image = Image.new("RGB", (2, 1), (200, 40, 40))
    drawn = np.asarray(heat_overlay(image, torch.tensor([[0.0, 1.0]]))).astype(int)
    assert np.ptp(drawn[0, 0]) == 0
    assert drawn[0, 1, 0] > 220
    with pytest.raises(ValueError, match="values 2 x 1 over an image of 3 x 1"):
        heat_overlay(Image.new("RGB", (3, 1)), torch.zeros(1, 2))


def test_a_ring_stands_around_its_point() -> None:
    image = Image.new("RGB", (101, 81), (128, 128, 128))
    changed = np.argwhere((np.asarray(mark_point(image, (60, 30))) != 128).any(-1))
    assert np.abs(changed.mean(0) - (30, 60)).max() < 1.5
    assert (np.asarray(mark_point(image, (60, 30)))[30, 60] == 128).all(), "what is looked at stays visible"
    assert (np.asarray(image) == 128).all(), "the image itself is not changed"


def test_rows_of_a_grid_have_captions() -> None:
    cells = [[Image.new("RGB", (8, 8))] for _ in range(2)]
    plain = image_grid(cells, headings=["a"], cell=(40, 60))
    captioned = image_grid(cells, headings=["a"], cell=(40, 60), captions=["first", "second"])
    assert captioned.height == plain.height + 2 * 20
    with pytest.raises(ValueError, match="1 captions for 2 rows"):
        image_grid(cells, headings=["a"], captions=["first"])
