"""An image beside its likeliest classes."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from a2mamba.visualize.text import lettering

_SIDE, _PANEL, _MARGIN, _ROW, _LETTERS = 256, 300, 14, 40, 15
_INK, _PALE, _FIRST, _OTHERS = (28, 32, 38), (226, 230, 235), (38, 110, 190), (130, 150, 175)


def class_bars(image: Image.Image, top: Sequence[tuple[str, float]]) -> Image.Image:
    """An image on the left and a bar for each of its likeliest classes on the right.

    Args:
        image: of any size and mode.
        top: (name, probability 0 to 1), best first.

    Returns:
        Mode "RGB".
    """
    image = image.convert("RGB")
    scale = min(_SIDE / image.width, _SIDE / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)

    height = max(_SIDE, _ROW * len(top)) + 2 * _MARGIN
    canvas = Image.new("RGB", (_SIDE + _PANEL + 3 * _MARGIN, height), "white")
    canvas.paste(image, (_MARGIN + (_SIDE - size[0]) // 2, (height - size[1]) // 2))
    draw = ImageDraw.Draw(canvas)
    left = _SIDE + 2 * _MARGIN
    y = (height - _ROW * len(top)) // 2
    for place, (name, share) in enumerate(top):
        title, percent = lettering(name, _LETTERS).cut_to(_PANEL - 70), lettering(f"{100 * share:.1f} %", _LETTERS)
        draw.text((left, y), title.text, fill=_INK, font=title.font)
        draw.text((left + _PANEL - percent.width, y), percent.text, fill=_INK, font=percent.font)
        bar = (left, y + 22, left + _PANEL, y + 30)
        draw.rectangle(bar, fill=_PALE)
        if share > 0.002:
            draw.rectangle((*bar[:2], left + _PANEL * share, bar[3]), fill=_OTHERS if place else _FIRST)
        y += _ROW
    return canvas
