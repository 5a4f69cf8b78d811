"""A look into label files: which numbers or colors they hold, for `conventions` to say what these mean."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from a2mamba.data.images import UndecodableImageError
from a2mamba.data.segmentation.files import LOSSY_EXTENSIONS
from a2mamba.data.segmentation.labels import (
    IGNORE_LABEL,
    AlphaMaskError,
    pack_colors,
    read_mask,
    read_palette,
    unpack_colors,
)


class Survey(NamedTuple):
    """What label files hold: pixels of each number, int64 (256,), and the colors, where they are colors."""

    numbers: np.ndarray
    colors: tuple[tuple[int, int, int], ...]
    """gray ones too, unless all are gray"""
    two_ends: int = 0
    """files that hold 255 and no other number but 0"""
    ignoring: int = 0
    """files that hold 255 beside a number from 1 to 254"""
    lossy: bool = False
    """whether they are JPEG files"""
    palettes: str = ""
    """what differs between the palettes of files: the colors of one number in two of them; empty where they agree"""

    @property
    def values(self) -> list[int]:
        """The numbers that occur."""
        return np.flatnonzero(self.numbers).tolist()


def survey_labels(paths: Sequence[str]) -> Survey:
    """Look into label files; those that cannot be read are left out: training replaces and names them.

    Raises:
        UndecodableImageError: none of several can be read, or their masks are in the alpha channel.
    """
    stats = [Path(path).stat() for path in paths]
    return _survey(tuple(paths), sum(stat.st_mtime_ns + stat.st_size for stat in stats))


@functools.lru_cache(maxsize=8)  # a run asks for the same files several times
def _survey(paths: tuple[str, ...], state: int) -> Survey:
    numbers = np.zeros(256, dtype=np.int64)
    colors: set[int] = set()
    error: UndecodableImageError | None = None
    in_alpha: list[AlphaMaskError] = []
    numbered = colored = readable = usual = two_ends = ignoring = 0
    lossy = bool(paths) and all(path.lower().endswith(LOSSY_EXTENSIONS) for path in paths)
    palettes = _Palettes()
    with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
        for path, seen in zip(paths, pool.map(_look_into, paths), strict=True):
            if isinstance(seen, UndecodableImageError):
                error = error or seen
                in_alpha += [seen] if isinstance(seen, AlphaMaskError) else []
                continue
            readable += 1
            palettes.add(seen, path)
            colored += bool(seen.colors)
            numbered += int(np.count_nonzero(seen.numbers) > 1)
            usual += 1 < (int(np.count_nonzero(seen.numbers)) or len(seen.colors)) <= 256
            two_ends += seen.has_255 and not seen.has_others
            ignoring += seen.has_255 and seen.has_others
            numbers += seen.numbers
            colors |= seen.colors
    if len(in_alpha) > usual:  # the others are masks of one class, or photos whose alpha is of one level
        raise in_alpha[0]
    if not readable and error is not None:
        raise error
    if colored <= numbered:  # a few files of another kind are damage; loading names them
        return Survey(numbers, (), two_ends, ignoring, lossy, palettes.difference)
    # A file of one gray color, the background's as a rule, was taken for numbers.
    colors |= {value * 0x010101 for value in np.flatnonzero(numbers).tolist()}
    return Survey(numbers, tuple(unpack_colors(np.array(sorted(colors), dtype=np.int32))))


def _look_into(path: str) -> _Seen | UndecodableImageError:
    try:
        pixels = read_mask(path)
    except UndecodableImageError as error:
        return error
    if pixels.ndim == 3:
        return _Seen(np.zeros(256, dtype=np.int64), frozenset(np.unique(pack_colors(pixels)).tolist()), None)
    return _Seen(np.bincount(pixels.ravel(), minlength=256), frozenset(), read_palette(path))


class _Seen(NamedTuple):
    """What one label file holds: pixels of each number (256,), or its colors as packed numbers."""

    numbers: np.ndarray
    colors: frozenset[int]
    palette: np.ndarray | None
    """of the file, see `read_palette`"""

    @property
    def has_255(self) -> bool:
        """Whether 255 occurs."""
        return bool(self.numbers[IGNORE_LABEL])

    @property
    def has_others(self) -> bool:
        """Whether a number from 1 to 254 occurs."""
        return bool(self.numbers[1:IGNORE_LABEL].any())


class _Palettes:
    """The colors of numbers in palette files: finds a number that has two."""

    def __init__(self) -> None:
        self._first: dict[int, tuple[tuple[int, ...], str]] = {}
        self.difference = ""

    def add(self, seen: _Seen, path: str) -> None:
        """Compare the numbers of a file with those of the files before."""
        if seen.palette is None:
            return
        for number in np.flatnonzero(seen.numbers[: len(seen.palette)]).tolist():
            color = tuple(seen.palette[number].tolist())
            before, file = self._first.setdefault(number, (color, path))
            if before != color and not self.difference:
                self.difference = f"number {number} is {before} in {file} and {color} in {path}"
