"""Boxes and areas of outlines, and run lengths of masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Box = tuple[float, float, float, float]


def box_of_corners(x0: float, y0: float, x1: float, y1: float) -> Box:
    """Two opposite corners, in any order -> x y w h."""
    return min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)


def box_of_polygons(polygons: Sequence[Sequence[float]]) -> Box:
    """The smallest box x y w h around polygons [x0, y0, x1, y1, ...]."""
    points = np.concatenate([np.array(ring, dtype=float) for ring in polygons]).reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1 - x0, y1 - y0


def area_of_polygons(polygons: Sequence[Sequence[float]]) -> float:
    """The sum of the polygons' areas, by the shoelace formula."""
    total = 0.0
    for ring in polygons:
        x, y = np.array(ring, dtype=float).reshape(-1, 2).T
        total += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return total


def runs_of_part(part: np.ndarray, left: int, top: int, height: int, width: int) -> dict[str, Any]:
    """COCO's run lengths, down the columns, of a mask that covers a part of its image.

    Args:
        part: (h, w), not 0 inside.
        left: column of the image at which it begins.
        top: row of the image at which it begins.
        height: of the image.
        width: of the image.

    Raises:
        ValueError: a phrase: it lies outside of its image.
    """
    h, w = part.shape
    if not (0 <= left <= left + w <= width and 0 <= top <= top + h <= height):
        raise ValueError(f"of {w} x {h} pixels from ({left}, {top}) lies outside of its image")
    whole = np.zeros((height, width), dtype=bool)
    whole[top : top + h, left : left + w] = part != 0
    return _runs(whole)


def union_of_runs(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """The union of two masks of one image, as run lengths like `runs_of_part`'s."""
    masks = [
        np.repeat(np.arange(len(runs["counts"])) % 2 == 1, runs["counts"]).reshape(runs["size"], order="F")
        for runs in (one, two)
    ]
    return _runs(masks[0] | masks[1])


def _runs(mask: np.ndarray) -> dict[str, Any]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], mask.ravel(order="F")))))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate(([0], edges, [mask.size]))).tolist()}
