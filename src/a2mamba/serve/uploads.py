"""What visitors send, on its way to becoming an image: through `a2mamba.data.images`, and small enough to look at."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from a2mamba.data.images import UndecodableImageError, decode_image
from a2mamba.predictor import Predictor

MAX_MEGABYTES = 20
MAX_PIXELS = 50_000_000
"""Photographs of telephones have 12 to 50 million."""

LOOKED_AT = 2048
"""Longest side in pixels of what a network is given; larger images are shrunk."""


def read_upload(path: str, predictor: Predictor, *, max_pixels: int) -> Image.Image:
    """Return an uploaded file as an image of the mode that the network takes, upright, at most `LOOKED_AT` on a side.

    Raises:
        UndecodableImageError: whatever is wrong with it; the message names no folder of this machine.
    """
    try:
        image = decode_image(path, mode=predictor.mode, max_pixels=max_pixels)
    except UndecodableImageError as error:
        raise UndecodableImageError(Path(path).name, error.reason) from error
    image.thumbnail((LOOKED_AT, LOOKED_AT), Image.Resampling.LANCZOS)
    return image
