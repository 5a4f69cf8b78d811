from __future__ import annotations

import contextlib
import io
import pickle
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from a2mamba.data import IMAGE_EXTENSIONS, UndecodableImageError, decode_image, image_size, images, read_labels

from .helpers import error_line, write_image

ASSETS = Path(__file__).parents[1] / "assets"


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


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([0, 255, 256, 32768, 65535], [0, 0, 1, 128, 255]),
        ([0, 16, 2048, 4095], [0, 1, 128, 255]),  # a camera's 12 bits
        ([0, 4, 512, 1023], [0, 1, 128, 255]),
        ([0, 1, 200, 255], [0, 1, 200, 255]),
    ],
)
def test_sixteen_bits_are_scaled_by_those_that_are_used(levels: list[int], expected: list[int], tmp_path: Path) -> None:
    Image.fromarray(np.array([levels], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(decode_image(tmp_path / "deep.png", mode="L")).tolist() == [expected]
    assert decode_image(tmp_path / "deep.png").mode == "RGB"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 1 << 20]], dtype=np.int32), [0, 255]),
        (np.array([[-100, 0, 100]], dtype=np.int32), [0, 127, 255]),
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0.0, 127.0, 200.0]], dtype=np.float32), [0, 127, 200]),
        (np.array([[-2.0, np.nan, 2.0]], dtype=np.float32), [0, 0, 255]),
    ],
)
def test_wider_pixels_are_scaled_by_their_range(values: np.ndarray, expected: list[int], tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "wide.tif")
    assert np.asarray(decode_image(tmp_path / "wide.tif", mode="L")).tolist() == [expected]


def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    error_line(lambda: decode_image(tmp_path / "nan.tif"), "nan.tif", "finite")


def test_scaling_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images._say_once.cache_clear()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.array([[0, 4095]], dtype=np.uint16)).save(tmp_path / name)
        decode_image(tmp_path / name)
    assert [record.message for record in caplog.records if "16-bit" in record.message] == [
        "16-bit images are scaled to 8 bits by the 10, 12, 14 or 16 bits that each of them uses"
    ]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(suffix: str, orientation: int, tmp_path: Path) -> None:
    upright = np.zeros((24, 40, 3), dtype=np.uint8)
    upright[:8, :16] = 255
    stored = Image.fromarray(upright)
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Image.Transpose
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"photo{suffix}", exif=exif.tobytes())
    decoded = decode_image(tmp_path / f"photo{suffix}")
    assert decoded.size == (40, 24)
    assert np.abs(np.asarray(decoded, dtype=int) - upright)[4, 4:36:8].max() < 60  # JPEG rounds
    size = image_size(tmp_path / f"photo{suffix}")
    assert size[:2] == (24, 40)


def test_a_program_is_never_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's EPS plugin would call ghostscript, whatever the file's name."""
    from PIL import EpsImagePlugin

    def started(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)
    monkeypatch.setattr("subprocess.Popen", started)
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n%%EOF\n"
    (tmp_path / "drawing.png").write_bytes(text)
    error_line(lambda: decode_image(tmp_path / "drawing.png"), "drawing.png", "EPS or PostScript", "expected JPEG, PNG")
    error_line(lambda: image_size(tmp_path / "drawing.png"), "EPS")
    error_line(lambda: read_labels(tmp_path / "drawing.png"), "EPS")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x00\x00\x00\x18ftypheic" + bytes(12), "HEIC"),
        (b"%PDF-1.7\n", "PDF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    ],
)
def test_other_formats_are_refused_by_name(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    error_line(lambda: decode_image(tmp_path / "a.jpg"), "a.jpg", reason)


def test_heic_is_read_and_turned_once() -> None:
    """The assets are 64 x 48, white in the stored upper left quarter; one is to be turned by 90 degrees."""
    pytest.importorskip("pi_heif")
    pixels = np.zeros((48, 64, 3), dtype=int)
    pixels[:24, :32] = 255
    assert np.abs(np.asarray(decode_image(ASSETS / "upright.heic"), dtype=int) - pixels).mean() < 4
    turned = np.asarray(decode_image(ASSETS / "turned.heic"))
    assert turned.shape == (64, 48, 3) == (*image_size(ASSETS / "turned.heic")[:2], 3)
    assert turned[:30, 26:].min() > 200 > 50 > turned[34:].max()


def test_without_the_extra_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    images._formats.cache_clear()
    try:
        error_line(lambda: decode_image(ASSETS / "upright.heic"), "a HEIC file", 'pip install "a2mamba[heif]"')
    finally:
        images._formats.cache_clear()


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, SyntaxError, struct.error, RecursionError, TypeError])
def test_whatever_a_decoder_raises_names_the_file(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Image.Image) -> None:
        raise error("first line\nsecond")

    path = write_image(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    error_line(lambda: decode_image(path), "a.png", "memory" if error is MemoryError else "first line")


def test_a_request_to_stop_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Image.Image) -> None:
        raise KeyboardInterrupt

    path = write_image(tmp_path / "a.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", stop)
    with pytest.raises(KeyboardInterrupt):
        decode_image(path)


def test_limits_of_size(tmp_path: Path) -> None:
    (tmp_path / "thin.png").write_bytes(png_of_size(1, 80_000_000))
    error_line(lambda: decode_image(tmp_path / "thin.png"), "thin.png", "65,535", "either side")
    path = write_image(tmp_path / "a.png", size=(20, 30))
    error_line(lambda: decode_image(path, max_pixels=599), "a.png", "30 x 20", "max_pixels")
    assert decode_image(path, max_pixels=600).size == (30, 20)
    large = tmp_path / "large.png"
    large.write_bytes(png_of_size(20_000, 20_000))
    # Those who mean it get as far as the pixels, which are missing here.
    reason = error_line(lambda: decode_image(large, max_pixels=500_000_000), "large.png")
    assert "bomb" not in reason
    assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".avif", ".pgm"])
def test_every_extension_that_counts_is_read(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    kind = {".jfif": "JPEG", ".pgm": "PPM"}.get(suffix)
    if suffix == ".avif" and "AVIF" not in images._formats():
        pytest.skip("this Pillow has no AVIF")
    Image.new("L", (16, 12), 128).save(path, format=kind)
    assert suffix in IMAGE_EXTENSIONS
    assert abs(int(np.asarray(decode_image(path))[5, 5, 0]) - 128) < 4


def test_palette_with_transparency_gives_its_colors_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode=None).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128, 255]))
    assert np.asarray(decode_image(tmp_path / "palette.png")).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_mode(mode: str, tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png")
    assert decode_image(path, mode=mode).mode == mode
