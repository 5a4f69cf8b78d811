"""Every name can be drawn: in the font's glyphs, or as escapes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont, features

from a2mamba.visualize import draw_objects, image_grid, text
from a2mamba.visualize.class_bars import class_bars
from a2mamba.visualize.text import lettering

RUSSIAN, HEBREW, HINDI = "кошка", "חתול", "बिल्ली"


@pytest.fixture
def few_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No font but Pillow's own and DejaVu Sans, whatever this machine has."""
    monkeypatch.setattr(text, "SYSTEM_FONTS", ())


@pytest.mark.usefixtures("few_fonts")
def test_what_no_font_has_is_escaped() -> None:
    assert lettering("a cat, 10 %", 13).text == "a cat, 10 %"
    assert lettering("猫 a\n\udcff", 13).text == "\\u732b a\\n\\udcff"
    assert lettering("a\u202eb", 13).text == "a\\u202eb", "a mark that turns the direction of what follows"
    escaped = HINDI.encode("unicode_escape").decode("ascii")
    assert lettering(HINDI, 13).text == escaped, "marks too, which shaping would set on a circle"


@pytest.mark.usefixtures("few_fonts")
def test_other_scripts_are_drawn_in_a_font_that_has_them() -> None:
    pytest.importorskip("matplotlib")
    for name in (RUSSIAN, "γάτα ñandú", *([HEBREW] if features.check("raqm") else [])):
        found = lettering(name, 13)
        assert found.text == name
        assert isinstance(found.font, ImageFont.FreeTypeFont)
        assert found.font.getname() == ("DejaVu Sans", "Book")
        assert 0 < found.width == found.font.getlength(name)
    assert lettering("cat", 13).font is not lettering(RUSSIAN, 13).font, "drawings of Latin names stay as they are"


@pytest.mark.usefixtures("few_fonts")
def test_letters_are_not_drawn_in_the_wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Raqm, Pillow draws every script from left to right and every mark beside its letter."""
    monkeypatch.setattr(features, "check", lambda _: False)
    text._has.cache_clear()
    try:
        assert lettering(HEBREW, 13).text == HEBREW.encode("unicode_escape").decode("ascii")
        assert lettering("e\u0301", 13).text == "e\\u0301"
    finally:
        text._has.cache_clear()


def test_fonts_of_the_system_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fonts = pytest.importorskip("matplotlib").get_data_path() + "/fonts/ttf/"
    shutil.copy(fonts + "LastResortHE-Regular.ttf", tmp_path / "any.ttf")  # has a glyph for whatever there is
    monkeypatch.setattr(text, "SYSTEM_FONTS", ("absent.ttf", str(tmp_path / "any.ttf")))
    found = lettering("猫", 13)
    assert found.text == "猫"
    assert isinstance(found.font, ImageFont.FreeTypeFont)
    assert found.font.path == str(tmp_path / "any.ttf")


@pytest.mark.usefixtures("few_fonts")
def test_drawings_take_any_name() -> None:
    image = Image.new("RGB", (40, 30), "red")
    assert (
        class_bars(image, [("猫", 0.9), ("\udcff", 0.1)]).tobytes()
        == class_bars(image, [("\\u732b", 0.9), ("\\udcff", 0.1)]).tobytes()
    )
    grids = [
        image_grid([[image]], headings=[name], legend=[(name, (1, 2, 3))], cell=(40, 60)) for name in ("猫", "\\u732b")
    ]
    assert grids[0].tobytes() == grids[1].tobytes()


@pytest.mark.usefixtures("few_fonts")
def test_drawings_hold_the_names_glyphs() -> None:
    pytest.importorskip("matplotlib")
    image = Image.new("RGB", (90, 60), "white")
    found = {"boxes": torch.tensor([[5.0, 30, 80, 55]]), "labels": torch.tensor([1])}
    drawn, escaped = (
        np.asarray(draw_objects(image, found, names=[name]))
        for name in (RUSSIAN, RUSSIAN.encode("unicode_escape").decode("ascii"))
    )
    assert not np.array_equal(drawn, escaped)
    wide = class_bars(image, [("к" * 99, 0.9)])
    assert wide.size == class_bars(image, [("к", 0.9)]).size
