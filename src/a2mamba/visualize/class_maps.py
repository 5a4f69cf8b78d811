"""Class maps as images: in the colors of their classes, over the photograph, and side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from a2mamba.data.segmentation.datasets.spec import Palette
from a2mamba.data.segmentation.labels import IGNORE_LABEL
from a2mamba.visualize.text import lettering

_IGNORED = (0, 0, 0)
_MARGIN, _LINE, _SWATCH, _LETTERS = 8, 20, 12, 13
_INK = (28, 32, 38)


def class_map_image(classes: np.ndarray | Tensor, palette: Palette) -> Image.Image:
    """A palette image whose pixel values are the class indices; saved as PNG, it is a label file and looks like one.

    Args:
        classes: (H, W), class indices and 255 (ignored, drawn black), on the CPU.
        palette: a color for each class.

    Returns:
        Mode "P".

    Raises:
        ValueError: another shape, or a class that has no color.
    """
    image = Image.fromarray(_checked(classes, palette))
    image.putpalette(_colors(palette).tobytes())
    return image


def overlay(image: Image.Image, classes: np.ndarray | Tensor, palette: Palette, *, opacity: float = 0.5) -> Image.Image:
    """A photograph with the colors of the classes over it; ignored pixels show the photograph alone.

    Args:
        image: the photograph.
        classes: (H, W) of the same size, class indices and 255, on the CPU.
        palette: a color for each class.
        opacity: of the colors, 0 to 1.

    Returns:
        Mode "RGB".

    Raises:
        ValueError: sizes that differ, a class that has no color, or an opacity out of range.
    """
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity}: expected 0 to 1")
    indices = _checked(classes, palette)
    if indices.shape != (image.height, image.width):
        raise ValueError(
            f"classes are {indices.shape[1]} x {indices.shape[0]} pixels, the image {image.width} x {image.height}; "
            f"both must be equal"
        )
    blended = image.convert("RGB")
    cover = Image.fromarray(np.where(indices == IGNORE_LABEL, 0, round(255 * opacity)).astype(np.uint8))
    blended.paste(Image.fromarray(_colors(palette)[indices]), mask=cover)
    return blended


def image_grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    headings: Sequence[str],
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
    cell: tuple[int, int] = (240, 320),
    captions: Sequence[str] = (),
) -> Image.Image:
    """Images in rows under headings, on white, each as large as its cell allows.

    Args:
        rows: images of any size and mode, as many in each row as there are headings; image, truth and prediction,
            for instance.
        headings: of the columns.
        legend: names and colors to show below; see `class_legend`.
        cell: height and width of a cell in pixels.
        captions: a line above each row; none: no lines.

    Returns:
        Mode "RGB".

    Raises:
        ValueError: no rows, a row of another length, or captions for another number of rows.
    """
    if not rows or any(len(row) != len(headings) for row in rows):
        raise ValueError(f"rows of {[len(row) for row in rows]} images: expected {len(headings)} in each, as headings")
    if captions and len(captions) != len(rows):
        raise ValueError(f"{len(captions)} captions for {len(rows)} rows: expected one for each, or none")
    height, width = cell
    above = _LINE if captions else 0
    named = [(lettering(name, _LETTERS), color) for name, color in legend]
    entry = _MARGIN * 2 + _SWATCH + int(max((name.width for name, _ in named), default=0))
    total_width = _MARGIN + len(headings) * (width + _MARGIN)
    across = max(1, (total_width - _MARGIN) // entry)
    lines = -(-len(named) // across)
    top = _MARGIN + _LINE
    total_height = top + len(rows) * (above + height + _MARGIN) + lines * _LINE
    canvas = Image.new("RGB", (total_width, total_height), "white")
    draw = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        title = lettering(heading, _LETTERS)
        draw.text((_MARGIN + column * (width + _MARGIN), _MARGIN), title.text, fill=_INK, font=title.font)
    for row, images in enumerate(rows):
        row_top = top + row * (above + height + _MARGIN) + above
        if captions:
            caption = lettering(captions[row], _LETTERS)
            draw.text((_MARGIN, row_top - above), caption.text, fill=_INK, font=caption.font)
        for column, image in enumerate(images):
            fitted = _fit(image, height, width)
            left = _MARGIN + column * (width + _MARGIN) + (width - fitted.width) // 2
            canvas.paste(fitted, (left, row_top + (height - fitted.height) // 2))
    for number, (name, color) in enumerate(named):
        x = _MARGIN + number % across * entry
        y = top + len(rows) * (above + height + _MARGIN) + number // across * _LINE
        draw.rectangle((x, y + 2, x + _SWATCH, y + 2 + _SWATCH), fill=color, outline=_INK)
        draw.text((x + _SWATCH + 5, y), name.text, fill=_INK, font=name.font)
    return canvas


def class_legend(
    maps: Sequence[np.ndarray | Tensor], classes: Sequence[str], palette: Palette
) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colors of the classes that occur in any of some class maps, in the order of their indices."""
    found = sorted({int(index) for single in maps for index in np.unique(np.asarray(single))} - {IGNORE_LABEL})
    return [(classes[index], palette[index]) for index in found]


def _checked(classes: np.ndarray | Tensor, palette: Palette) -> np.ndarray:
    indices = np.asarray(classes)
    if indices.ndim != 2 or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"classes are {indices.dtype} {indices.shape}: expected integers (H, W)")
    wrong = indices[((indices < 0) | (indices >= len(palette))) & (indices != IGNORE_LABEL)]
    if wrong.size:
        raise ValueError(f"class {int(wrong[0])} is out of range for a palette of {len(palette)} colors")
    return indices.astype(np.uint8)


def _colors(palette: Palette) -> np.ndarray:
    """uint8 (256, 3): black for what is no class."""
    return np.array([*palette, *[_IGNORED] * (256 - len(palette))], dtype=np.uint8)


def _fit(image: Image.Image, height: int, width: int) -> Image.Image:
    scale = min(height / image.height, width / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Pillow never blends the indices of a palette image, whatever the method.
    return image.resize(size, Image.Resampling.BICUBIC).convert("RGB")
