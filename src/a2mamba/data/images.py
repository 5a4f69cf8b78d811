"""Decoding images: the one place where bytes of an image file become pixels.

Formats come from a fixed list and not from what Pillow can open: some of its plugins start programs (an EPS file makes
it call ghostscript, whatever the file's name), and rarely used ones fail in ways of their own. Whatever a decoder
raises leaves here as one error that names the file.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image

IMAGE_EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"),
    *(".tif", ".tiff", ".webp"),
)
"""File extensions, in lower case, that count as images; the comparison ignores case. The content decides on decoding:
a HEIC file without pi-heif, say, is refused by name instead of being left out."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "HEIF")
"""Pillow's names of the formats that are decoded: of GIF and TIFF the first frame, AVIF and HEIF where Pillow can."""

MAX_PIXELS = 2 * 89_478_485
"""Pixels of the largest image that is decoded by default: Pillow's limit against decompression bombs. An RGB image
takes 3 to 4 bytes a pixel, twice that while it is converted: 1.4 GB at this limit."""

MAX_SIDE = 65_535
"""Pixels on either side: JPEG's own limit. Pillow needs memory for each row beside its pixels, so that an image of
1 x 170,000,000 would take 3.7 GB."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_TIFF_WIDTH, _TIFF_HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# (offset, bytes there, what it is): for the message about a file that is refused.
_OTHER_FORMATS = (
    (0, b"%!PS", "an EPS or PostScript file"),
    (0, b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (0, b"%PDF", "a PDF file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (0, b"BLP", "a BLP texture"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\x00\x00\x01\x00", "an ICO file"),
    (0, b"icns", "an ICNS file"),
    (0, b"<svg", "an SVG file"),
    (0, b"<?xml", "an XML file, of which SVG is one kind"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image itself (run: git lfs pull)"),
    (128, b"DICM", "a DICOM file"),
)
_INSTALL_HEIF = 'reading it needs pi-heif; install it with: pip install "a2mamba[heif]"'
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")

_log = logging.getLogger("a2mamba.data")
_limit_lock = threading.Lock()
T = TypeVar("T")


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


class ImageSize(NamedTuple):
    """Height and width in pixels, upright; turned: whether they are exchanged in the file (EXIF orientation)."""

    height: int
    width: int
    turned: bool


def image_mode(in_chans: int) -> str:
    """Pillow's mode for a number of channels: 1 -> "L", 3 -> "RGB", 4 -> "RGBA".

    Raises:
        ValueError: for any other number of channels.
    """
    if in_chans not in _MODES:
        raise ValueError(f"in_chans={in_chans}: image files are read with 1 (gray), 3 (RGB) or 4 (RGBA) channels")
    return _MODES[in_chans]


def decode_image(
    source: BinaryIO | Path | str, *, name: str | None = None, mode: str = "RGB", max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode every pixel of an image, turn it upright by its EXIF orientation, and convert it to `mode`.

    Deeper images are scaled to 8 bits by the range that they use: unsigned integers by 8, 10, 12, 14 or 16 bits,
    whichever holds their largest value; floating-point pixels by [0, 1] or [0, 255], whichever holds them; all others
    by their least and largest value. A log message says so once. Transparency is dropped unless `mode` keeps it: what
    a transparent pixel's color is, is seen. Of several frames the first is read.

    Args:
        source: a path, or a file opened for reading bytes (left open).
        name: the file's name in errors; a path needs none.
        mode: "L", "RGB" or "RGBA".
        max_pixels: largest number of pixels; either side has at most `MAX_SIDE`.

    Returns:
        A loaded image that no longer depends on the file.

    Raises:
        UndecodableImageError: missing, empty, truncated, not an image in one of `FORMATS`, or too large.
    """

    def decode(image: Image.Image) -> Image.Image:
        image.load()
        return _convert(upright(image), mode)

    return read_image(source, decode, name=name, max_pixels=max_pixels)


def image_size(source: BinaryIO | Path | str, *, name: str | None = None) -> ImageSize:
    """The size of an image as `decode_image` would return it, from its header alone.

    Raises:
        UndecodableImageError: as `decode_image`, but for damage behind the header.
    """

    def measure(image: Image.Image) -> ImageSize:
        turned = exif_orientation(image) >= 5
        tags = getattr(image, "tag_v2", None)  # of TIFF, where Pillow's size is upright in some versions
        width, height = image.size if tags is None else (tags[_TIFF_WIDTH], tags[_TIFF_HEIGHT])
        return ImageSize(width, height, turned) if turned else ImageSize(height, width, turned)

    return read_image(source, measure, name=name)


def read_image(
    source: BinaryIO | Path | str,
    read: Callable[[Image.Image], T],
    *,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> T:
    """Open an image and return what `read` makes of it: the door that all decoding goes through.

    Args:
        source: as for `decode_image`.
        read: takes the opened image, of which the header is read.
        name: the file's name in errors.
        max_pixels: as for `decode_image`.

    Raises:
        UndecodableImageError: whatever opening or `read` raised, `UndecodableImageError`s themselves unchanged.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        try:
            file = path.open("rb")
        except OSError as error:
            raise UndecodableImageError(name or str(path), error.strerror or "unreadable") from error
        with file:
            return read_image(file, read, name=name or str(path), max_pixels=max_pixels)
    name = name or str(getattr(source, "name", "<stream>"))
    try:
        with _bomb_limit(max_pixels):
            image = Image.open(source, formats=_formats())
        _check_size(image, max_pixels)
        return read(image)
    except UndecodableImageError:
        raise
    # Decoders answer damage with nearly anything: RuntimeError, MemoryError, SyntaxError, struct.error, ... All of it
    # means that the file cannot be read. What asks a program to stop (KeyboardInterrupt) is no Exception.
    except Exception as error:
        raise UndecodableImageError(name, _reason(error, source)) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow has a decoder for; asking for another one is a KeyError."""
    try:
        import pi_heif  # optional, for iPhones' images

        pi_heif.register_heif_opener()
    except ImportError:
        pass
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def _bomb_limit(max_pixels: int) -> Iterator[None]:
    """Let Pillow open images of up to `max_pixels`; by default its own limit is ours."""
    if max_pixels <= MAX_PIXELS:
        yield
        return
    with _limit_lock:  # Pillow's limit is a variable of its module
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if max(width, height) > MAX_SIDE:
        raise ValueError(f"{width} x {height} pixels; at most {MAX_SIDE:,} are read on either side")
    if width * height > max_pixels:
        raise ValueError(f"{width} x {height} pixels; at most {max_pixels:,} in all are read (max_pixels)")


def _reason(error: Exception, source: BinaryIO) -> str:
    """One line about what a decoder raised."""
    try:
        source.seek(0)
        start = source.read(256)
    except Exception:  # a stream that cannot go back says nothing more
        start = b"?"
    if not start:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return _kind(start)
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _kind(start: bytes) -> str:
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        return "a damaged HEIC file" if "HEIF" in _formats() else f"a HEIC file, which needs pi-heif; {_INSTALL_HEIF}"
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return "an AVIF file, which this Pillow cannot decode (pip install --upgrade pillow)"
    for offset, magic, what in _OTHER_FORMATS:
        if start[offset:].startswith(magic):
            return f"{what}; expected {', '.join(FORMATS)}"
    return f"not an image in a known format ({', '.join(FORMATS)})"


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright, and so is an image whose EXIF block is damaged."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # metadata is no reason to refuse pixels
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def upright(image: Image.Image) -> Image.Image:
    """A loaded image, turned as its EXIF orientation says."""
    turn = _UPRIGHT.get(exif_orientation(image))
    return image if turn is None else image.transpose(turn)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == mode:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_to_8_bits(np.asarray(image)))
    elif image.mode == "P":
        # Directly to RGB, Pillow warns when the palette carries transparency; the colors are the same this way.
        image = image.convert("RGBA")
    return image.convert(mode)


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Gray pixels of any depth -> uint8, see `decode_image`.

    Raises:
        ValueError: no pixel is finite.
    """
    finite = np.isfinite(pixels)
    if not finite.any():
        raise ValueError("no pixel is a finite number")
    values = np.where(finite, pixels, pixels[finite].min())
    low, high = values.min().item(), values.max().item()
    if values.dtype.kind in "iu" and low >= 0 and high < 1 << 16:
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
        if bits > 8:
            _say_once("16-bit images are scaled to 8 bits by the 10, 12, 14 or 16 bits that each of them uses")
        return (values.astype(np.uint32) >> (bits - 8)).astype(np.uint8)
    _say_once("32-bit images are scaled to 8 bits by the range of values that each of them uses")
    if low >= 0 and high <= 255:
        low, high = (0.0, 1.0) if values.dtype.kind == "f" and high <= 1 else (0.0, 255.0)
    scaled = (values.astype(np.float64) - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


@functools.cache
def _say_once(text: str) -> None:
    _log.warning(text)
