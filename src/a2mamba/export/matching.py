"""Detections of two programs side by side: which belong together, and how much they differ."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]

NEAR = 0.01
"""Detections of a class belong together only if scores, and boxes by the largest coordinate, differ less than this."""


def detections_difference(found: Arrays, expected: Arrays, *, least_score: float, tolerance: float) -> float:
    """Return the largest difference of scores, of masks, and of boxes relative to the largest coordinate.

    Rounding may swap detections of equal scores, and one that just reaches the least score, or the last place of a
    full list, may be missing on one side; neither is a difference.

    Args:
        found, expected: "boxes", "labels", "scores", "count" and perhaps "masks", see `export.detections.Padded`.
        least_score: detections need a higher one.
        tolerance: how near to that score, or to the last one of a full list, a detection may be missing.

    Returns:
        Infinity where a detection has no counterpart.
    """
    return max(
        _image_difference(_real(found, i), _real(expected, i), least_score, tolerance)
        for i in range(len(expected["count"]))
    )


def _real(arrays: Arrays, i: int) -> dict[str, np.ndarray]:
    """The detections of one image that are there, and whether the list is full."""
    count = int(arrays["count"][i])
    real = {name: values[i, :count] for name, values in arrays.items() if name != "count"}
    return real | {"full": np.array(count == arrays["scores"].shape[1])}


def _image_difference(a: Arrays, b: Arrays, least_score: float, tolerance: float) -> float:
    size = max([1e-12, *(float(each["boxes"].max()) for each in (a, b) if len(each["boxes"]))])
    apart = np.abs(a["boxes"][:, None] - b["boxes"][None]).max(-1) / size
    apart = np.maximum(apart, np.abs(a["scores"][:, None] - b["scores"][None]))
    apart = np.where(a["labels"][:, None] == b["labels"][None], apart, np.inf).astype(np.float64)
    worst, rows, columns = 0.0, set(range(len(a["scores"]))), set(range(len(b["scores"])))
    while apart.size and apart.min() < NEAR:
        i, j = (int(k) for k in np.unravel_index(apart.argmin(), apart.shape))
        worst = max(worst, float(apart[i, j]))
        if "masks" in b:
            worst = max(worst, float(np.abs(a["masks"][i] - b["masks"][j]).max()))
        rows.remove(i)
        columns.remove(j)
        apart[i], apart[:, j] = np.inf, np.inf
    for each, other, alone in ((a, b, rows), (b, a, columns)):
        edge = max(least_score, float(other["scores"].min())) if other["full"] else least_score
        if any(each["scores"][i] > edge + tolerance for i in alone):
            return float("inf")
    if len(a["scores"]) > 1:
        worst = max(worst, float(np.diff(a["scores"]).max()))  # best first
    return worst
