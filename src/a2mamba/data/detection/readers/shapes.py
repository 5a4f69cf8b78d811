"""Boxes and areas of outlines."""

from __future__ import annotations

from collections.abc import Sequence

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
