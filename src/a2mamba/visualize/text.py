"""Text in drawings: in a font that has its characters, whatever script it is in; escaped where there is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont, features

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SYSTEM_FONTS = (
    # Linux
    *("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "unifont.otf"),
    *("NotoSans-Regular.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf", "NotoSansThai-Regular.ttf"),
    *("NotoSansDevanagari-Regular.ttf", "NotoSansBengali-Regular.ttf", "NotoSansTamil-Regular.ttf", "FreeSans.ttf"),
    # macOS
    *("Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc", "Kohinoor.ttc"),
    # Windows
    *("msyh.ttc", "malgun.ttf", "meiryo.ttc", "Nirmala.ttf", "Nirmala.ttc", "LeelawUI.ttf", "segoeui.ttf"),
)
"""Files of fonts with many characters; Pillow looks for them in the system's folders."""

_NO_CHARACTER = "\uffff"


class Lettering(NamedTuple):
    """A text as it can be drawn, and the font to draw it in."""

    text: str
    font: Font

    @property
    def width(self) -> float:
        """Pixels from the beginning of the text to its end."""
        return self.font.getlength(self.text)

    def cut_to(self, width: float) -> Lettering:
        """The text, ended by an ellipsis where it is wider than so many pixels."""
        text = self.text
        if self.width <= width:
            return self
        while text and self.font.getlength(text + "…") > width:
            text = text[:-1]
        return self._replace(text=text + "…")


def lettering(text: str, size: int) -> Lettering:
    """Choose the font for a text: Pillow's own, DejaVu Sans where matplotlib is installed, or one of the system's.

    Characters that the chosen font lacks, and what is no character that can be seen (line ends, marks that turn the
    direction of text), are written as escapes. They would be boxes, or something else than the name.

    Args:
        text: a name, from a file of whoever made it.
        size: of the letters, in pixels.
    """
    best = None
    for font in _fonts(size):
        lacking = sum(not _has(font, character) for character in text)
        if best is None or lacking < best[0]:
            best = lacking, font
        if not lacking:
            break
    assert best is not None
    font = best[1]
    drawn = "".join(c if _has(font, c) else c.encode("unicode_escape").decode("ascii") for c in text)
    return Lettering(drawn, font)


def _fonts(size: int) -> Iterator[Font]:
    """Fonts that are there; each is looked for when those before it did not do."""
    yield _own(size)
    spec = find_spec("matplotlib")  # it is not imported
    if spec is not None and spec.origin is not None:
        yield from _file(str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    for name in ("DejaVuSans.ttf", *SYSTEM_FONTS):
        yield from _file(name, size)


@cache
def _own(size: int) -> Font:
    return ImageFont.load_default(size=size)


@cache
def _file(name: str, size: int) -> tuple[Font, ...]:
    """The font in a file; none where there is no such file, or Pillow has no FreeType."""
    try:
        return (ImageFont.truetype(name, size),)
    except (OSError, ImportError):
        return ()


@cache
def _has(font: Font, character: str) -> bool:
    if not character.isprintable():
        return False
    if character.isascii():
        return True
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType: a bitmap of Latin letters
        return ord(character) < 256
    if _needs_shaping(character) and not features.check("raqm"):
        return False  # letters would stand in the wrong order, or beside their marks
    plain = _without_shaping(font)
    try:
        return bytes(plain.getmask(character)) != bytes(plain.getmask(_NO_CHARACTER))
    except UnicodeEncodeError:  # what stands for a byte of a file name that is no UTF-8
        return False


@cache
def _without_shaping(font: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    """The font, which draws one glyph for each character: shaping sets a mark alone on a circle of its own."""
    if font.layout_engine == ImageFont.Layout.BASIC:
        return font
    # Not font_variant: its layout_engine=BASIC is 0, which it takes for none.
    return ImageFont.truetype(font.path, font.size, layout_engine=ImageFont.Layout.BASIC)


def _needs_shaping(character: str) -> bool:
    return unicodedata.bidirectional(character) in ("R", "AL") or unicodedata.category(character).startswith("M")
