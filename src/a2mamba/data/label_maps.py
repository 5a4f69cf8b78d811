"""From the numbers in label files to class indices and back.

A label file (PNG, 8 bits) holds one number for each pixel. Each data set has its own numbers; models and metrics know
class indices 0, 1, ... and 255 for pixels that do not count. A `LabelMap` is the table between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from a2mamba.data.images import _DECODE_ERRORS, UndecodableImageError

IGNORE_LABEL = 255
"""Class index of pixels that count neither in the loss nor in a metric."""

_CITYSCAPES_CLASS_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Ids of the evaluated classes, in the order of their train ids; the other ids, 0 to 33, are ignored."""
_CITYSCAPES_IDS = 34
_COCO_STUFF_DROPPED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Numbers in COCO-Stuff's files, 0 to 181, of labels that never occur."""
_COCO_STUFF_IDS = 182

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


@dataclass(frozen=True)
class LabelMap:
    """A table between the numbers in a data set's label files and class indices.

    Args:
        name: for messages.
        num_classes: number of classes, 1 to 255.
        class_values: the number in a file for each class index.
        ignored_values: numbers whose pixels are ignored; the first is written where there is no class. 255 is always
            ignored, unless it is a class.

    Raises:
        ValueError: numbers that are given twice, or out of range.
    """

    name: str
    class_values: tuple[int, ...]
    ignored_values: tuple[int, ...] = (IGNORE_LABEL,)

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
        numbers = f"{low} to {high} ({self.num_classes} classes)"
        return (
            f"{self.name} labels are {numbers}, ignored {_several(ignored)}; check the file and the number of classes"
        )


def class_labels(num_classes: int) -> LabelMap:
    """Files that hold class indices as they are, and 255 for ignored pixels."""
    return LabelMap("class index", tuple(range(num_classes)))


def ade20k_labels(num_classes: int = 150) -> LabelMap:
    """ADE20K's scene parsing files: 0 is ignored, number k is class k - 1 ("reduce zero label")."""
    return LabelMap(
        "ADE20K", tuple(range(1, num_classes + 1)), (0, IGNORE_LABEL) if num_classes < IGNORE_LABEL else (0,)
    )


def cityscapes_labels() -> LabelMap:
    """Cityscapes' labelIds files: 19 of the ids 0 to 33 are classes, in the order of their train ids."""
    classes = _CITYSCAPES_CLASS_IDS
    return LabelMap("Cityscapes", classes, tuple(i for i in range(_CITYSCAPES_IDS) if i not in classes))


def coco_stuff_labels() -> LabelMap:
    """COCO-Stuff's stuffthingmaps: 171 of the numbers 0 to 181; 255 is ignored, and 11 numbers never occur."""
    return LabelMap("COCO-Stuff", tuple(i for i in range(_COCO_STUFF_IDS) if i not in _COCO_STUFF_DROPPED))


def read_labels(path: Path | str) -> np.ndarray:
    """The numbers in a label file.

    Gray, palette (the indices, not the colors) and 16-bit files are read, whatever their bit depth.

    Returns:
        uint8 (H, W).

    Raises:
        LabelFileError: colors instead of numbers, or numbers above 255.
        UndecodableImageError: missing, damaged, or not an image.
    """
    name = str(path)
    try:
        with Image.open(path) as image:
            spread = _SPREAD.get(_rawmode(image), 1)
            image.load()
            mode, pixels = image.mode, np.asarray(image)
    except UnidentifiedImageError as error:
        reason = "the file is empty" if Path(path).stat().st_size == 0 else "not an image in a known format"
        raise UndecodableImageError(name, reason) from error
    except _DECODE_ERRORS as error:
        reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise UndecodableImageError(name, reason) from error
    if pixels.ndim != 2 or (not np.issubdtype(pixels.dtype, np.integer) and pixels.dtype != bool):
        raise LabelFileError(
            name, f"its pixels are colors (mode {mode}); expected one number a pixel; save it as an 8-bit gray PNG"
        )
    if pixels.size and (pixels.max() > 255 or pixels.min() < 0):
        raise LabelFileError(name, f"label {int(pixels.max())} is out of range; expected 0 to 255")
    return (pixels // spread if spread > 1 else pixels).astype(np.uint8)


def _rawmode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return arguments if isinstance(arguments, str) else next((a for a in arguments or () if isinstance(a, str)), "")


def _several(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
