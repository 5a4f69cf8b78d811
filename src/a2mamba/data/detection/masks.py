"""Object masks as COCO's files state them (polygons, run lengths), kept compactly and drawn when asked for."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

_INSTALL = (
    'polygon masks need faster-coco-eval; install it with: pip install "a2mamba[coco]", or train with masks=False'
)
_POLYGONS, _RUNS, _STRING = 0, 1, 2
# The rasterizer walks along every edge: a coordinate like 1e12 would keep it busy for hours.
_FARTHEST = 1e5


class SegmentationStore:
    """The masks of many objects in a few flat arrays.

    Millions of small Python lists would be copied to every loader process, page by page, as their reference counts
    change; arrays are shared.
    """

    def __init__(self) -> None:
        self._kinds = array("b")
        self._starts = array("q", [0])
        self._sizes = array("i")
        self._numbers = array("d")  # coordinates of polygons, with the length of each ring before it; run lengths
        self._bytes = bytearray()
        self._byte_starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._kinds)

    def append(self, segmentation: object, *, height: int, width: int) -> None:
        """Add the mask of one object.

        Args:
            segmentation: a list of polygons [x0, y0, x1, y1, ...], or {"size": [h, w], "counts": list or string}.
            height: of the image.
            width: of the image.

        Raises:
            ValueError: one phrase about what is wrong with it; nothing was added.
        """
        if isinstance(segmentation, Mapping):
            kind, numbers, text = _runs(segmentation, height, width)
        elif isinstance(segmentation, list):
            kind, numbers, text = _POLYGONS, _rings(segmentation), b""
        else:
            raise ValueError("its segmentation is neither a list of polygons nor run lengths")
        self._kinds.append(kind)
        self._sizes.extend((height, width))
        self._numbers.extend(numbers)
        self._starts.append(len(self._numbers))
        self._bytes.extend(text)
        self._byte_starts.append(len(self._bytes))

    def extent(self, index: int) -> tuple[float, float, float, float] | None:
        """The smallest box (x0, y0, x1, y1) around a mask, in pixels of its image; None where the mask is empty.

        Raises:
            ValueError: run lengths that are damaged.
        """
        if self._kinds[index] == _POLYGONS:
            points = np.concatenate([ring.reshape(-1, 2) for ring in self._polygons(index)])
            points = np.clip(points, 0, (self._sizes[2 * index + 1], self._sizes[2 * index]))
            (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
            return float(x0), float(y0), float(x1), float(y1)
        mask = self.draw(index)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size == 0:
            return None
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)

    def require_library(self) -> None:
        """Nothing where every mask can be drawn.

        Raises:
            ImportError: there are polygons, and neither faster-coco-eval nor pycocotools is installed.
        """
        if _POLYGONS in self._kinds:
            _mask_library()

    def draw(self, index: int) -> np.ndarray:
        """The mask of one object, uint8 (height, width) of 0 and 1.

        Raises:
            ValueError: run lengths that are damaged.
            ImportError: a polygon, and neither faster-coco-eval nor pycocotools is installed.
        """
        height, width = self._sizes[2 * index], self._sizes[2 * index + 1]
        kind = self._kinds[index]
        if kind == _POLYGONS:
            return _fill(self._polygons(index), height, width)
        if kind == _RUNS:
            runs = np.array(self._numbers[self._starts[index] : self._starts[index + 1]], dtype=np.int64)
        else:
            runs = runs_from_string(bytes(self._bytes[self._byte_starts[index] : self._byte_starts[index + 1]]))
        return draw_runs(runs, height, width)

    def _polygons(self, index: int) -> list[np.ndarray]:
        rings, position, stop = [], self._starts[index], self._starts[index + 1]
        while position < stop:
            length = int(self._numbers[position])
            rings.append(np.array(self._numbers[position + 1 : position + 1 + length]))
            position += 1 + length
        return rings


def runs_from_string(text: bytes) -> np.ndarray:
    """COCO's compressed run lengths -> int64 (runs,).

    Each run is written in groups of five bits, lowest first, one printable character a group, with a sixth bit that
    says whether more follow; from the fourth run on the number is the difference to the run before the last.

    Raises:
        ValueError: characters outside of the format, or an unfinished number.
    """
    values = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    if values.size == 0:
        return values
    more = (values & 32) != 0
    if values.min() < 0 or values.max() > 63 or more[-1]:
        raise ValueError("its run lengths are no valid COCO string")
    last = np.flatnonzero(~more)
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > 12:  # 60 bits: no image is so large, and more would overflow
        raise ValueError("its run lengths are no valid COCO string")
    shift = 5 * (np.arange(values.size) - np.repeat(first, lengths))
    runs = np.add.reduceat((values & 31) << shift, first)
    negative = (values[last] & 16) != 0
    runs -= np.where(negative, np.int64(1) << (5 * lengths), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def draw_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """Run lengths, of 0 and 1 in turn down the columns and beginning with 0 -> uint8 (height, width).

    Raises:
        ValueError: a negative run, or runs that do not fill the image.
    """
    if runs.size and runs.min() < 0:
        raise ValueError("one of its run lengths is negative")
    # Not a plain sum: damaged strings hold numbers whose sum may overflow.
    if float(np.sum(runs, dtype=np.float64)) != height * width:
        raise ValueError(f"its run lengths do not add up to the image's {height} x {width} pixels")
    values = np.arange(runs.size, dtype=np.uint8) & 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _runs(segmentation: Mapping[str, Any], height: int, width: int) -> tuple[int, Sequence[float], bytes]:
    counts = segmentation.get("counts")
    if segmentation.get("size") != [height, width]:
        raise ValueError(f"its mask has size {segmentation.get('size')}, and its image [{height}, {width}]")
    if isinstance(counts, str):
        try:
            return _STRING, (), counts.encode("ascii")
        except UnicodeEncodeError:
            raise ValueError("its run lengths are no valid COCO string") from None
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("its run lengths are neither a string nor a list of whole numbers of 0 or more")
    if sum(counts) != height * width:
        raise ValueError(f"its run lengths do not add up to the image's {height} x {width} pixels")
    return _RUNS, counts, b""


def _rings(polygons: list[Any]) -> array[float]:
    numbers = array("d")
    for ring in polygons:
        if not isinstance(ring, list):
            raise ValueError("its segmentation is no list of polygons")
        # Two points bound no area, and the rasterizer takes four numbers for a box.
        if len(ring) < 6 or len(ring) % 2:
            continue
        numbers.append(len(ring))
        try:
            numbers.extend(ring)
        except TypeError:
            raise ValueError("its polygon holds something else than numbers") from None
        # With a number that is not finite the sum is none, either, while min and max may pass over it.
        if not math.isfinite(sum(ring)) or min(ring) < -_FARTHEST or max(ring) > _FARTHEST:
            raise ValueError("its polygon has a coordinate that is not finite or far outside of the image")
    if not numbers:
        raise ValueError("its segmentation has no polygon of three points or more")
    return numbers


def _fill(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """The union of polygons by COCO's own rule for edges, which is finer than a pixel."""
    library = _mask_library()
    runs = library.merge(library.frPyObjects([ring.tolist() for ring in rings], height, width))
    drawn: np.ndarray = library.decode(runs)
    return drawn


def _mask_library() -> ModuleType:
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        try:
            from pycocotools import mask
        except ImportError as error:
            raise ImportError(_INSTALL) from error
    return mask
