"""From label files to class indices and back: numbers, or colors, for each pixel.

Each data set has its own numbers; models and metrics know class indices 0, 1, ... and 255 for pixels that do not
count. A `LabelMap` is the table between the two for numbers, a `ColorMap` for colors; `conventions` chooses one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from a2mamba.data.images import UndecodableImageError, read_image, upright

IGNORE_LABEL = 255
"""Class index of pixels that count neither in the loss nor in a metric."""

# Rawmodes in which Pillow spreads 1, 2 and 4 bits over 0..255, and the factor by which it does.
_SPREAD = {"L;2": 85, "L;4": 17}


class LabelFileError(UndecodableImageError):
    """A label file that can be decoded, but does not hold labels that fit.

    An `UndecodableImageError`, so that it comes out of a loader's worker processes as one line.

    Args:
        path: the file, as the user would name it.
        reason: one line: what is wrong, what was expected, what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        ValueError.__init__(self, f"label file {path}: {reason}")
        self.path = path
        self.reason = reason


class AlphaMaskError(LabelFileError):
    """A label file whose colors say nothing: what varies as a mask does is its alpha channel."""


@dataclass(frozen=True)
class LabelMap:
    """A table between the numbers in a data set's label files and class indices.

    Args:
        name: for messages.
        class_values: the number in a file for each class index.
        ignored_values: numbers whose pixels are ignored; the first is written where there is no class. 255 is always
            ignored, unless it is a class.
        blurred: other numbers belong to the class whose number is nearest: for masks with smoothed edges.

    Raises:
        ValueError: numbers that are given twice, or out of range.
    """

    name: str
    class_values: tuple[int, ...]
    ignored_values: tuple[int, ...] = (IGNORE_LABEL,)
    blurred: bool = False

    def __post_init__(self) -> None:
        values = (*self.class_values, *self.ignored_values)
        if len(set(values)) != len(values) or not all(0 <= value <= 255 for value in values):
            raise ValueError(f"label map {self.name}: expected different numbers from 0 to 255, found {values}")
        if not 1 <= self.num_classes <= IGNORE_LABEL:
            raise ValueError(f"label map {self.name} has {self.num_classes} classes: expected 1 to 255")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_values)

    def table(self) -> np.ndarray:
        """int16 (256,): number in a file -> class index, `IGNORE_LABEL`, or -1 for a number that has no meaning."""
        if self.blurred:
            distances = np.abs(np.arange(256)[:, None] - np.array(self.class_values))
            return distances.argmin(axis=1).astype(np.int16)
        table = np.full(256, -1, dtype=np.int16)
        table[[IGNORE_LABEL, *self.ignored_values]] = IGNORE_LABEL
        table[list(self.class_values)] = np.arange(self.num_classes)
        return table

    def to_classes(self, values: np.ndarray, *, path: str = "<array>") -> np.ndarray:
        """Convert the numbers of a label file.

        Args:
            values: uint8, any shape.
            path: the file's name in errors.

        Returns:
            uint8 of the same shape: class indices and `IGNORE_LABEL`.

        Raises:
            LabelFileError: a number that has no meaning in this data set.
        """
        classes = self.table()[values]
        if classes.size and classes.min() < 0:
            unknown = np.unique(values[classes < 0]).tolist()
            raise LabelFileError(path, f"label {_several(unknown)} is out of range; {self._expected()}")
        return classes.astype(np.uint8)

    def read(self, path: Path | str) -> np.ndarray:
        """The class indices of a label file: uint8 (H, W).

        Raises:
            UndecodableImageError: as `read_labels` and `to_classes`.
        """
        return self.to_classes(read_labels(path), path=str(path))

    def to_values(self, classes: np.ndarray) -> np.ndarray:
        """Convert class indices to the numbers of label files, as an evaluation server expects them.

        Args:
            classes: integers of any shape: class indices and `IGNORE_LABEL`.

        Returns:
            uint8 of the same shape.

        Raises:
            ValueError: an index that is no class.
        """
        inverse = np.full(256, self.ignored_values[0] if self.ignored_values else IGNORE_LABEL, dtype=np.uint8)
        inverse[: self.num_classes] = self.class_values
        wrong = (classes < 0) | ((classes >= self.num_classes) & (classes != IGNORE_LABEL))
        if wrong.any():
            raise ValueError(
                f"class {_several(np.unique(classes[wrong]).tolist())} is out of range for {self.num_classes} classes"
            )
        return inverse[classes]

    def _expected(self) -> str:
        low, high = min(self.class_values), max(self.class_values)
        ignored = sorted({*self.ignored_values, IGNORE_LABEL} - set(range(low, high + 1)))
        said = f", ignored {_several(ignored)}" if ignored else ""
        return (
            f"{self.name} labels are {low} to {high} ({self.num_classes} classes){said}; "
            f"check the file and the number of classes"
        )


@dataclass(frozen=True)
class ColorMap:
    """A table between the colors in a data set's label files and class indices.

    Args:
        colors: red, green, blue of each class, in the order of class indices.

    Raises:
        ValueError: a color that is given twice, or out of range.
    """

    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if len(set(self.colors)) != len(self.colors):
            twice = next(color for color in self.colors if self.colors.count(color) > 1)
            raise ValueError(f"two classes have the color {twice}; expected a different one for each class")
        if not all(0 <= part <= 255 for color in self.colors for part in color):
            raise ValueError("colors are three numbers from 0 to 255")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.colors)

    def to_classes(self, pixels: np.ndarray, *, path: str = "<array>") -> np.ndarray:
        """uint8 (H, W, 3) -> class indices, uint8 (H, W).

        Raises:
            LabelFileError: a color that is no class.
        """
        codes = pack_colors(np.array(self.colors, dtype=np.uint8))
        order = np.argsort(codes)
        found = pack_colors(pixels)
        places = np.searchsorted(codes[order], found).clip(max=len(codes) - 1)
        unknown = codes[order][places] != found
        if unknown.any():
            names = [str(color) for color in unpack_colors(np.unique(found[unknown])[:3])]
            raise LabelFileError(
                path, f"color {', '.join(names)} belongs to no class; add it to the palette, or repair the file"
            )
        return order[places].astype(np.uint8)

    def read(self, path: Path | str) -> np.ndarray:
        """The class indices of a label file: uint8 (H, W).

        Raises:
            LabelFileError: as `to_classes`.
            UndecodableImageError: missing, damaged, or not an image.
        """
        pixels = read_mask(path)
        if pixels.ndim == 2:  # all of the file's colors are gray
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        return self.to_classes(pixels, path=str(path))


AnyLabelMap = LabelMap | ColorMap


def class_labels(num_classes: int) -> LabelMap:
    """Files that hold class indices as they are, and 255 for ignored pixels."""
    return LabelMap("class index", tuple(range(num_classes)))


def pack_colors(pixels: np.ndarray) -> np.ndarray:
    """uint8 (..., 3) -> int32 (...): one number for each color."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def unpack_colors(codes: np.ndarray) -> list[tuple[int, int, int]]:
    """The inverse of `pack_colors`, as tuples."""
    return [(code >> 16, (code >> 8) & 255, code & 255) for code in codes.tolist()]


def read_labels(path: Path | str) -> np.ndarray:
    """The numbers in a label file.

    Gray, palette (the indices, not the colors) and 16-bit files are read, whatever their bit depth, and colors that
    are all gray.

    Returns:
        uint8 (H, W).

    Raises:
        LabelFileError: colors instead of numbers, or numbers above 255.
        UndecodableImageError: missing, damaged, or not an image.
    """
    pixels = read_mask(path)
    if pixels.ndim == 3:
        raise LabelFileError(
            str(path),
            "its pixels are colors; expected one number a pixel, or the colors of the classes in labelmap.txt "
            "(name:red,green,blue); save it as an 8-bit gray PNG, or write that file",
        )
    return pixels


def read_mask(path: Path | str) -> np.ndarray:
    """The pixels of a label file, turned upright like its image.

    Returns:
        uint8: numbers (H, W); colors (H, W, 3) where a pixel is not gray. Transparency is dropped.

    Raises:
        LabelFileError: numbers above 255, pixels that are neither numbers nor colors, or a mask in the alpha channel.
        UndecodableImageError: missing, damaged, or not an image.
    """

    def read(image: Image.Image) -> np.ndarray:
        spread = _SPREAD.get(_rawmode(image), 1)
        image.load()
        if image.mode in ("RGBA", "LA"):
            opaque = image.convert(image.mode[:-1])
            _refuse_mask_in_alpha(opaque, image.getchannel("A"), str(path))
            image = opaque
        mode, pixels = image.mode, np.asarray(upright(image))
        if mode == "RGB":
            gray = (pixels == pixels[..., :1]).all()
            return pixels[..., 0].copy() if gray else pixels
        if pixels.ndim != 2 or (not np.issubdtype(pixels.dtype, np.integer) and pixels.dtype != bool):
            raise LabelFileError(
                str(path), f"its pixels are no labels (mode {mode}); expected one number a pixel, or a color"
            )
        if pixels.size and (pixels.max() > 255 or pixels.min() < 0):
            raise LabelFileError(str(path), f"label {int(pixels.max())} is out of range; expected 0 to 255")
        return (pixels // spread if spread > 1 else pixels).astype(np.uint8)

    return read_image(path, read)


def read_palette(path: Path | str) -> np.ndarray | None:
    """The colors of a palette file, uint8 (colors, 3); None for a file of another kind, and where the palette is a
    ramp of gray, which says nothing.

    Raises:
        UndecodableImageError: missing, damaged, or not an image.
    """

    def read(image: Image.Image) -> np.ndarray | None:
        if image.mode != "P" or image.palette is None:
            return None
        colors = np.array(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
        return None if (colors == np.arange(len(colors))[:, None]).all() else colors

    return read_image(path, read)


def _refuse_mask_in_alpha(opaque: Image.Image, alpha: Image.Image, path: str) -> None:
    """AlphaMaskError where the colors are all the same, or so many that they are a photo, and the alpha varies."""
    levels = np.unique(np.asarray(alpha)).tolist()
    colors = opaque.getcolors(256)
    if len(levels) == 1 or (colors is not None and len(colors) > 1):
        return
    said = "as many colors as a photo" if colors is None else "one color"
    raise AlphaMaskError(
        path,
        f"its pixels have {said}, and its alpha channel the levels {_several(levels)}: the mask is in that channel, "
        f'which is not read; save it as a gray PNG, with Pillow: Image.open(file).getchannel("A").save(file)',
    )


def _rawmode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else next((a for a in arguments or () if isinstance(a, str)), "")


def _several(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
