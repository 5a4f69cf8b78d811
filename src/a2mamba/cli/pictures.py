"""Pictures of predictions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIDE = 256
PANEL = 300
MARGIN = 14
ROW = 40
INK, PALE, ACCENT = (28, 32, 38), (226, 230, 235), (38, 110, 190)


def annotate(prediction: dict[str, Any], target: Path) -> None:
    """Write a PNG with the picture on the left and a bar for each of its likeliest classes on the right.

    Args:
        prediction: {"image": file, "top": [{"class": name, "probability": 0 to 1}, ...]}.
        target: file to write; its folder is made.
    """
    with Image.open(prediction["image"]) as file:
        picture = file.convert("RGB")
    scale = min(SIDE / picture.width, SIDE / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS)

    top = prediction["top"]
    height = max(SIDE, ROW * len(top)) + 2 * MARGIN
    canvas = Image.new("RGB", (SIDE + PANEL + 3 * MARGIN, height), "white")
    canvas.paste(picture, (MARGIN + (SIDE - size[0]) // 2, (height - size[1]) // 2))
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=15)
    left = SIDE + 2 * MARGIN
    y = (height - ROW * len(top)) // 2
    for place, entry in enumerate(top):
        share = entry["probability"]
        draw.text((left, y), _fitted(entry["class"], font, PANEL - 70), fill=INK, font=font)
        percent = f"{100 * share:.1f} %"
        draw.text((left + PANEL - font.getlength(percent), y), percent, fill=INK, font=font)
        bar = (left, y + 22, left + PANEL, y + 30)
        draw.rectangle(bar, fill=PALE)
        if share > 0.002:
            draw.rectangle((*bar[:2], left + PANEL * share, bar[3]), fill=ACCENT if place == 0 else (130, 150, 175))
        y += ROW
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    canvas.save(temporary, format="PNG")
    os.replace(temporary, target)


def _fitted(text: str, font: Any, width: int) -> str:
    """Return the text, cut with an ellipsis where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
