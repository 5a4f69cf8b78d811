"""Where a point looks, as images: the attention of the last block of each stage."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from a2mamba.explain import attention_maps
from a2mamba.predictor import Predictor
from a2mamba.tasks import View

SIDE = 448
"""Pixels of the longer side of what is shown; views are enlarged to it."""

_RING, _HALO, _HEAT = (255, 255, 255), (20, 24, 32), (255, 214, 60)

Explained = tuple[Image.Image, list[tuple[Image.Image, str]]]
"""The view with the point marked, and images with captions."""


def show_view(predictor: Predictor, image: Image.Image) -> Image.Image:
    """Return what a network sees of an image, enlarged to be clicked on."""
    return _enlarged(predictor.view(image).image)


def point_in_view(predictor: Predictor, image: Image.Image, clicked: tuple[int, int]) -> tuple[int, int]:
    """Return column and row in the view of a place in `show_view`'s image."""
    view = predictor.view(image).image
    shown = _enlarged(view)
    x, y = clicked
    return min(x * view.width // shown.width, view.width - 1), min(y * view.height // shown.height, view.height - 1)


def explain_point(predictor: Predictor, image: Image.Image, point: tuple[int, int]) -> Explained:
    """Return the view with a point marked, and its attention in the last block of each stage, all heads together.

    Args:
        predictor: of any task.
        image: upright, of the predictor's mode.
        point: column and row in the view.

    Raises:
        ValueError: the point is outside, or the network has no attention of ours.
    """
    view = predictor.view(image)
    maps = attention_maps(predictor.model, view.batch, point)
    last = {each.stage: each.block for each in maps}
    shown = [each for each in maps if each.block == last[each.stage]]
    return _marked(view, point), [
        (_heat(view.image, each.on_image().mean(0).numpy()), f"stage {each.stage + 1}, {each.branch}") for each in shown
    ]


def _enlarged(image: Image.Image) -> Image.Image:
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BICUBIC)


def _marked(view: View, point: tuple[int, int]) -> Image.Image:
    shown = _enlarged(view.image)
    x = (point[0] + 0.5) * shown.width / view.image.width
    y = (point[1] + 0.5) * shown.height / view.image.height
    draw = ImageDraw.Draw(shown)
    for radius, width, color in ((10, 5, _HALO), (9, 3, _RING)):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=color, width=width)
    return shown


def _heat(image: Image.Image, weights: np.ndarray) -> Image.Image:
    """A gray image with a map (H, W) of its size over it, from nothing to yellow at its largest value."""
    gray = np.asarray(_enlarged(image).convert("L"), np.float32)[..., None] * np.float32([0.5, 0.55, 0.7])
    scaled = Image.fromarray(weights / max(float(weights.max()), 1e-12)).resize(
        (gray.shape[1], gray.shape[0]), Image.Resampling.BILINEAR
    )
    strength = np.sqrt(np.asarray(scaled))[..., None]
    return Image.fromarray((gray * (1 - strength) + np.float32(_HEAT) * strength).astype(np.uint8))
