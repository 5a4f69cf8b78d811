from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from a2mamba.data import UndecodableImageError, decode_image

from .helpers import error_line, write_image


def png_of_size(width: int, height: int) -> bytes:
    """A PNG header that claims a size, without the pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def damaged(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.jpg"
    whole = write_image(folder / "whole.jpg").read_bytes()
    contents = {
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "truncated": whole[: len(whole) // 2],
        "bomb": png_of_size(20_000, 20_000),
        "broken_png": png_of_size(16, 16),
    }
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "bomb", "broken_png"])
def test_damaged_file_is_named(kind: str, tmp_path: Path) -> None:
    path = damaged(kind, tmp_path)
    reason = {"missing": "No such file", "empty": "is empty", "text": "not an image", "bomb": "decompression bomb"}
    error_line(lambda: decode_image(path), str(path), reason.get(kind, ""))
    with pytest.raises(UndecodableImageError):
        decode_image(str(path))


def test_size_between_warning_and_error_is_named_when_warnings_are_errors(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_of_size(10_000, 10_000))
    error_line(lambda: decode_image(tmp_path / "large.png"), "large.png", "decompression bomb")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".ppm"])
def test_random_damage_gives_an_image_or_the_one_error(suffix: str, tmp_path: Path) -> None:
    whole = write_image(tmp_path / f"whole{suffix}").read_bytes()
    generator = np.random.default_rng(0)
    failures = 0
    for _ in range(60):
        content = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        for place in generator.integers(0, len(content), 4):
            content[place] = generator.integers(256)
        # Pillow remarks on odd tags, and pytest makes errors of remarks.
        with contextlib.suppress(UserWarning):
            try:
                decode_image(io.BytesIO(bytes(content)), name="damaged")
            except UndecodableImageError:
                failures += 1
    assert failures > 0


def test_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UndecodableImageError("a/b.jpg", "truncated")))
    assert (error.path, error.reason) == ("a/b.jpg", "truncated")
    assert str(error) == str(UndecodableImageError("a/b.jpg", "truncated"))


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    assert np.asarray(decode_image(tmp_path / "deep.png", mode="L")).tolist() == [[0, 0, 1, 128, 255]]
    assert decode_image(tmp_path / "deep.png").mode == "RGB"


def test_wider_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1 << 20]], dtype=np.int32)).save(tmp_path / "int.tif")
    Image.fromarray(np.array([[0.5]], dtype=np.float32)).save(tmp_path / "float.tif")
    error_line(lambda: decode_image(tmp_path / "int.tif"), "int.tif", "32-bit")
    error_line(lambda: decode_image(tmp_path / "float.tif"), "float.tif", "floating-point")


def test_palette_with_transparency_gives_its_colors_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode=None).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255]))
    assert np.asarray(decode_image(tmp_path / "palette.png")).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_mode(mode: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    assert decode_image(path, mode=mode).mode == mode
