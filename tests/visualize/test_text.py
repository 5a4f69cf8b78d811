"""Every name can be drawn: in the font's glyphs, or as escapes."""

from __future__ import annotations

from PIL import Image

from a2mamba.visualize import image_grid
from a2mamba.visualize.class_bars import class_bars
from a2mamba.visualize.text import default_font, drawable


def test_what_the_font_lacks_is_escaped() -> None:
    font = default_font(13)
    assert drawable("a cat, 10 %", font) == "a cat, 10 %"
    assert drawable("猫 a\n\udcff", font) == "\\u732b a\\n\\udcff"


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
