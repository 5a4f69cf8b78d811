"""Reading one image file: decoded completely, in a stated mode, or one error that names the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""File extensions, in lower case, that count as images; the comparison ignores case."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# What Pillow's decoders raise on damaged files. Its plugins read headers with struct and inflate with zlib, and a chunk
# parser that meets nonsense answers with SyntaxError, ValueError or IndexError rather than with OSError.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,  # an exception when the caller has turned warnings into errors
)


class UndecodableImageError(ValueError):
    """An image file that cannot be read or decoded.

    Args:
        path: the file, as the user would name it.
        reason: one line saying what is wrong.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot decode image {path}: {reason}; replace or remove the file")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[UndecodableImageError], tuple[str, str]]:
        # The error crosses from a loader's worker process to the main one.
        return type(self), (self.path, self.reason)


def image_mode(in_chans: int) -> str:
    """Pillow's mode for a number of channels: 1 -> "L", 3 -> "RGB", 4 -> "RGBA".

    Raises:
        ValueError: for any other number of channels.
    """
    if in_chans not in _MODES:
        raise ValueError(f"in_chans={in_chans}: image files are read with 1 (gray), 3 (RGB) or 4 (RGBA) channels")
    return _MODES[in_chans]


def decode_image(source: BinaryIO | Path | str, *, name: str | None = None, mode: str = "RGB") -> Image.Image:
    """Decode every pixel of an image and convert it to `mode`.

    16-bit gray images are scaled to 8 bits (Pillow alone would clip them to white); transparency is dropped unless
    `mode` keeps it.

    Args:
        source: a path, or a file opened for reading bytes (left open).
        name: the file's name in errors; a path needs none.
        mode: "L", "RGB" or "RGBA".

    Returns:
        A loaded image that no longer depends on the file.

    Raises:
        UndecodableImageError: missing, empty, truncated, not an image, or so large that Pillow suspects a decompression
            bomb (more than `2 * PIL.Image.MAX_IMAGE_PIXELS` pixels).
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            with path.open("rb") as file:
                return decode_image(file, name=name or str(path), mode=mode)
        except OSError as error:  # opening failed: decoding has its own guard below
            raise UndecodableImageError(name or str(path), error.strerror or "unreadable") from error
    name = name or str(getattr(source, "name", "<stream>"))
    try:
        image = Image.open(source)
        image.load()
        return _convert(image, mode)
    except UnidentifiedImageError as error:
        reason = "the file is empty" if _is_empty(source) else "not an image in a known format"
        raise UndecodableImageError(name, reason) from error
    except _DECODE_ERRORS as error:
        lines = str(error).splitlines()
        raise UndecodableImageError(name, lines[0] if lines else type(error).__name__) from error


def _is_empty(file: BinaryIO) -> bool:
    file.seek(0)
    return not file.read(1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("32-bit pixels; convert the image to 8 or 16 bits")
        image = Image.fromarray((pixels >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point pixels; convert the image to 8 or 16 bits")
    elif image.mode == "P":
        # Directly to RGB, Pillow warns when the palette carries transparency; the colors are the same this way.
        image = image.convert("RGBA")
    return image.convert(mode)
