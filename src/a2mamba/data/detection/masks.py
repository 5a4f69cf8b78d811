"""Object masks as COCO's files state them (polygons, run lengths), kept compactly and drawn when asked for."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_INSTALL = (
    'masks need faster-coco-eval; install it with: pip install "a2mamba[coco]", or train with boxes alone (masks=False)'
)
_POLYGONS, _RUNS, _STRING = 0, 1, 2
# The rasterizer walks along every edge: a coordinate like 1e12 would keep it busy for hours.
_FARTHEST = 1e5


class NoPolygonError(ValueError):
    """A list of polygons of which none bounds an area."""


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

    def append(self, segmentation: object, *, height: int, width: int) -> int:
        """Add the mask of one object.

        Args:
            segmentation: a list of polygons [x0, y0, x1, y1, ...], or {"size": [h, w], "counts": list or string}; a
                polygon alone, as numbers or as points [x, y], is a list of one.
            height: of the image.
            width: of the image.

        Returns:
            how many polygons were left out: fewer than three points, or coordinates that are not finite or far outside.

        Raises:
            NoPolygonError: none of the polygons is left.
            ValueError: one phrase about what is wrong with it. In either case nothing was added.
        """
        left_out = 0
        if isinstance(segmentation, Mapping):
            kind, numbers, text = _runs(segmentation, height, width)
        elif isinstance(segmentation, list):
            numbers, left_out = _rings(segmentation)
            kind, text = _POLYGONS, b""
        else:
            raise ValueError("its segmentation is neither a list of polygons nor run lengths")
        self._kinds.append(kind)
        self._sizes.extend((height, width))
        self._numbers.extend(numbers)
        self._starts.append(len(self._numbers))
        self._bytes.extend(text)
        self._byte_starts.append(len(self._bytes))
        return left_out

    def extent(self, index: int) -> tuple[float, float, float, float] | None:
        """The smallest box (x0, y0, x1, y1) around a mask, in pixels of its image; None where the mask is empty.

        Raises:
            ValueError: run lengths that are damaged.
            ImportError: run lengths, and faster-coco-eval is not installed.
        """
        if self._kinds[index] == _POLYGONS:
            points = np.concatenate([np.array(ring).reshape(-1, 2) for ring in self._polygons(index)])
            points = np.clip(points, 0, (self._sizes[2 * index + 1], self._sizes[2 * index]))
            (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
            return float(x0), float(y0), float(x1), float(y1)
        mask = self.draw(index)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size == 0:
            return None
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)

    def require_library(self) -> None:
        """Nothing where there are no masks, or faster-coco-eval is installed; else ImportError."""
        if self._kinds:
            mask_library()

    def draw(self, index: int) -> np.ndarray:
        """The mask of one object, uint8 (height, width) of 0 and 1.

        Raises:
            ValueError: run lengths that are damaged.
            ImportError: faster-coco-eval is not installed.
        """
        runs = self.run_lengths(index)
        try:
            drawn: np.ndarray = mask_library().decode(runs)
        except RuntimeError:
            raise ValueError("its run lengths are no valid COCO string") from None
        except ValueError:
            height, width = runs["size"]
            raise ValueError(f"its run lengths do not add up to the image's {height} x {width} pixels") from None
        return np.ascontiguousarray(drawn)

    def run_lengths(self, index: int) -> dict[str, Any]:
        """The mask as COCO's compressed run lengths, {"size": [h, w], "counts": text}; a string as it was stated.

        Raises:
            ImportError: faster-coco-eval is not installed.
        """
        height, width = self._sizes[2 * index], self._sizes[2 * index + 1]
        kind = self._kinds[index]
        runs: dict[str, Any]
        if kind == _POLYGONS:
            # The union of the polygons by COCO's own rule for edges, which is finer than a pixel.
            library = mask_library()
            runs = library.merge(library.frPyObjects(self._polygons(index), height, width))
        elif kind == _RUNS:
            counts = [int(count) for count in self._numbers[self._starts[index] : self._starts[index + 1]]]
            runs = mask_library().frPyObjects({"size": [height, width], "counts": counts}, height, width)
        else:
            runs = {"counts": bytes(self._bytes[self._byte_starts[index] : self._byte_starts[index + 1]])}
        counts = runs["counts"]
        return {"size": [height, width], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}

    def can_be_damaged(self, indices: np.ndarray) -> list[int]:
        """Positions in `indices` of the masks that are compressed run lengths, which are not checked when added."""
        kinds = np.array(self._kinds, dtype=np.int8)
        return np.flatnonzero(kinds[indices] == _STRING).tolist() if len(indices) else []

    def _polygons(self, index: int) -> list[list[float]]:
        rings, position, stop = [], self._starts[index], self._starts[index + 1]
        while position < stop:
            length = int(self._numbers[position])
            rings.append(self._numbers[position + 1 : position + 1 + length].tolist())
            position += 1 + length
        return rings


def mask_library() -> Any:
    """Return faster_coco_eval's mask functions.

    Not pycocotools': a damaged string of run lengths makes it write beyond its memory.

    Raises:
        ImportError: it is not installed; the message says what to install.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    return mask


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


def _rings(polygons: list[Any]) -> tuple[array[float], int]:
    """The polygons in one array, and how many were left out."""
    numbers, left_out = array("d"), 0
    if len(polygons) >= 6 and all(type(value) in (int, float) for value in polygons):
        polygons = [polygons]
    elif len(polygons) > 2 and all(isinstance(point, list) and len(point) == 2 for point in polygons):
        polygons = [list(itertools.chain.from_iterable(polygons))]
    for ring in polygons:
        if not isinstance(ring, list):
            raise ValueError("its segmentation is no list of polygons")
        try:
            values = array("d", ring)
        except (TypeError, OverflowError):
            raise ValueError("its polygon holds something else than numbers") from None
        # Two points bound no area, and the rasterizer takes four numbers for a box.
        # With a number that is not finite the sum is none, either, while min and max may pass over it.
        if (
            len(values) < 6
            or len(values) % 2
            or not math.isfinite(sum(values))
            or min(values) < -_FARTHEST
            or max(values) > _FARTHEST
        ):
            left_out += 1
            continue
        numbers.append(len(values))
        numbers.extend(values)
    if not numbers:
        raise NoPolygonError("no polygon of three points or more with finite coordinates near the image")
    return numbers, left_out
