"""Where a point looks, as images: the attention of the last block of each stage."""

from __future__ import annotations

from PIL import Image

from a2mamba.explain import attention_maps
from a2mamba.predictor import Predictor
from a2mamba.visualize import heat_overlay, mark_point

SIDE = 448
"""Pixels of the longer side of what is shown; what the network sees is enlarged or shrunk to it."""

Explained = tuple[Image.Image, list[tuple[Image.Image, str]]]
"""What the network sees, with the point marked, and images with captions."""


def show_view(predictor: Predictor, image: Image.Image) -> Image.Image:
    """Return what a network sees of an image, of a size to be clicked on."""
    return _scaled(predictor.view(image).image)


def point_in_view(predictor: Predictor, image: Image.Image, clicked: tuple[int, int]) -> tuple[int, int]:
    """Return column and row in what the network sees of a place in `show_view`'s image."""
    view = predictor.view(image).image
    shown = _scaled(view)
    x, y = clicked
    return min(x * view.width // shown.width, view.width - 1), min(y * view.height // shown.height, view.height - 1)


def explain_point(predictor: Predictor, image: Image.Image, point: tuple[int, int]) -> Explained:
    """Return what a network sees with a point marked, and its attention in the last block of each stage.

    Args:
        predictor: of any task.
        image: upright, of the predictor's mode.
        point: column and row in what the network sees.

    Raises:
        ValueError: the point is outside, or the network has no attention of ours.
    """
    view = predictor.view(image)
    maps = attention_maps(predictor.model, view.batch, point)
    last = {each.stage: each.block for each in maps}
    shown = _scaled(view.image)
    place = tuple((at + 0.5) * shown.width / view.image.width for at in point)
    return mark_point(shown, (place[0], place[1])), [
        (_scaled(heat_overlay(view.image, each.on_image().mean(0))), f"stage {each.stage + 1}, {each.branch}")
        for each in maps
        if each.block == last[each.stage]
    ]


def _scaled(image: Image.Image) -> Image.Image:
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC)
