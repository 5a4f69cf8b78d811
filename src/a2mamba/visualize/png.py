"""Images as files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from PIL import Image

from a2mamba.files import replace_file


def write_png(image: Image.Image, target: Path) -> None:
    """Write a PNG completely or not at all; its folder is made."""
    replace_file(target, partial(image.save, format="PNG"))
