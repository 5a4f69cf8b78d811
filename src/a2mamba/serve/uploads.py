"""What visitors send, on its way to becoming an image: through `a2mamba.data.images`, and small enough to look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.predictor import Predictor

MAX_MEGABYTES = 20
MAX_PIXELS = 50_000_000
"""Photographs of telephones have 12 to 50 million."""

LOOKED_AT = 2048
"""Longest side in pixels of what a network is given; larger images are shrunk."""


Upload = Mapping[str, Any]
"""A file as Gradio describes it, its place under "path", its name on the visitor's machine under "orig_name"."""


def read_upload(file: Upload, predictor: Predictor, *, max_pixels: int) -> Image.Image:
    """Return an uploaded file as an image of the mode that the network takes, upright, at most `LOOKED_AT` on a side.

    Raises:
        ValueError: whatever is wrong with it; the message names no folder of this machine.
    """
    path = str(file.get("path"))
    name = str(file.get("orig_name") or Path(path).name)
    try:
        image = decode_image(path, name=name, mode=predictor.mode, max_pixels=max_pixels)
    except UndecodableImageError as error:
        raise ValueError(f"cannot decode {name}: {error.reason}") from error
    image.thumbnail((LOOKED_AT, LOOKED_AT), Image.Resampling.LANCZOS)
    return image
