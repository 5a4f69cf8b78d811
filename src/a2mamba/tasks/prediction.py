"""What a model says about one image, whatever its task: plain numbers for JSON, drawings for people."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from a2mamba.visualize import write_png


class SourceImage:
    """An image that was asked about. Its pixels are kept while its batch is looked at, and read again when needed.

    Args:
        name: the file, or what stands for it.
        number: its place among the images that were asked about, from 0: output files of equal stems stay apart.
        read: decodes it.
    """

    def __init__(self, name: str, number: int, read: Callable[[], Image.Image]) -> None:
        self.name = name
        self.number = number
        self._read = read
        self._pixels: Image.Image | None = None

    def load(self) -> Image.Image:
        """Return the image, decoded, and keep it until `release`.

        Raises:
            UndecodableImageError: it cannot be read.
        """
        if self._pixels is None:
            self._pixels = self._read()
        return self._pixels

    def release(self) -> None:
        """Let go of the pixels."""
        self._pixels = None

    @property
    def image(self) -> Image.Image:
        """The image, without being kept for it."""
        return self._read() if self._pixels is None else self._pixels


@dataclass(frozen=True)
class PredictionOptions:
    """What can be chosen about predictions; each task takes some, see `Task.prediction_options`."""

    top: int | None = None
    """classification: how many classes to name; None: 5"""
    min_score: float | None = None
    """detection: lowest score of an object that is kept, 0 to 1; None: 0.5"""
    test_mode: str | None = None
    """segmentation: how images are looked at, a name of `TEST_MODES`; None: as the run says"""

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"top={self.top}: expected 1 or more classes")
        if self.min_score is not None and not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score={self.min_score}: expected 0 to 1")

    def chosen(self) -> list[str]:
        """Return the names of the options that are set."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


@dataclass(frozen=True, repr=False)
class Prediction(ABC):
    """What a model says about one image."""

    source: SourceImage
    """the image"""
    classes: Sequence[str]
    """names of the classes that the model knows, in index order"""

    columns: ClassVar[tuple[str, ...]]
    """headings of `row`"""
    suffixes: ClassVar[dict[str, str]]
    """kind of drawing -> what its file name ends in"""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return "image" and what was found, as plain types."""

    @abstractmethod
    def row(self) -> tuple[str, ...]:
        """Return one line of a table for people."""

    @abstractmethod
    def drawings(self) -> dict[str, Image.Image]:
        """Return what `suffixes` lists, the one to look at last."""

    def drawing(self) -> Image.Image:
        """Return the drawing to look at."""
        *_, last = self.drawings().values()
        return last

    def save(self, folder: Path | str) -> dict[str, Any]:
        """Write the drawings as PNG files, each whole or not at all; return `to_dict` with their names.

        Names begin with the image's place among those that were asked about, so that no two are equal.
        """
        entry = self.to_dict()
        for kind, drawing in self.drawings().items():
            entry[kind] = f"{self.source.number:04d}-{Path(self.source.name).stem}{self.suffixes[kind]}.png"
            write_png(drawing, Path(folder) / entry[kind])
        return entry

    def _repr_png_(self) -> bytes:
        """Let notebooks show the drawing."""
        buffer = io.BytesIO()
        self.drawing().save(buffer, format="PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({': '.join(self.row())})"
