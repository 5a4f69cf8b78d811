"""Heat: numbers at every pixel as colors, alone or laid over an image."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

# From black through violet and red to pale yellow, each lighter than the one before: a gray print reads alike.
_COLORS = np.array(
    [(6, 4, 24), (52, 15, 98), (116, 26, 110), (180, 45, 92), (229, 89, 52), (249, 157, 24), (252, 246, 164)],
    dtype=np.float32,
)


def heat_image(values: Tensor | np.ndarray, *, top: float | None = None) -> Image.Image:
    """Return numbers as colors, from dark to light.

    Args:
        values: (H, W), 0 or more.
        top: what is drawn lightest; None: the largest value.

    Returns:
        Mode "RGB", W x H pixels.
    """
    return Image.fromarray(np.round(_colored(_shares(values, top))).astype(np.uint8))


def heat_overlay(image: Image.Image, values: Tensor | np.ndarray, *, top: float | None = None) -> Image.Image:
    """Return an image, grayed and darkened, with its heat over it: the more of a value, the less of the image.

    Args:
        image: any mode.
        values: (H, W) of the image's size, 0 or more.
        top: what is drawn lightest; None: the largest value.

    Returns:
        Mode "RGB", of the image's size.

    Raises:
        ValueError: values of another size.
    """
    shares = _shares(values, top)
    if shares.shape != (image.height, image.width):
        raise ValueError(
            f"values {shares.shape[1]} x {shares.shape[0]} over an image of {image.width} x {image.height}: expected "
            "one size"
        )
    ground = np.asarray(image.convert("L").convert("RGB"), np.float32) * 0.75
    cover = 0.9 * np.sqrt(shares)[..., None]
    return Image.fromarray(np.round(ground + cover * (_colored(shares) - ground)).astype(np.uint8))


def mark_point(image: Image.Image, point: tuple[float, float]) -> Image.Image:
    """Return a copy of an image, "RGB", with a ring around a point (x, y)."""
    marked = image.convert("RGB")
    draw = ImageDraw.Draw(marked)
    x, y = point
    radius, line = max(4.0, min(image.size) / 32), max(1, round(min(image.size) / 140))
    # White between dark stands out on any ground.
    for place, color in ((1, (16, 18, 22)), (-1, (16, 18, 22)), (0, (255, 255, 255))):
        reach = radius + place * line
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=color, width=line + (place != 0))
    return marked


def _shares(values: Tensor | np.ndarray, top: float | None) -> np.ndarray:
    array = np.asarray(values, np.float32)
    most = float(array.max(initial=0)) if top is None else top
    return (array / most).clip(0, 1) if most > 0 else np.zeros_like(array)


def _colored(shares: np.ndarray) -> np.ndarray:
    """(H, W) from 0 to 1 -> float32 (H, W, 3)."""
    places = np.linspace(0, 1, len(_COLORS))
    return np.stack([np.interp(shares, places, _COLORS[:, channel]) for channel in range(3)], axis=-1)
