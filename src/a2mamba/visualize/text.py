"""Text in drawings: in a font that is there, whatever script it is in."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_NO_CHARACTER = "\uffff"


def default_font(size: int) -> Font:
    """Return Pillow's own font; no other is on every machine."""
    return ImageFont.load_default(size=size)


def drawable(text: str, font: Font) -> str:
    """Return a text whose characters the font has; others are written as escapes, where they would be boxes."""
    return "".join(c if _has(font, c) else c.encode("unicode_escape").decode("ascii") for c in text)


@cache
def _has(font: Font, character: str) -> bool:
    if character.isascii():
        return character.isprintable()
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType: a bitmap of Latin letters
        return character.isprintable() and ord(character) < 256
    try:
        return bytes(font.getmask(character)) != bytes(font.getmask(_NO_CHARACTER))
    except UnicodeEncodeError:  # what stands for a byte of a file name that is no UTF-8
        return False
