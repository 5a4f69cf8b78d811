"""Whether boxes were written in another form than the one that their format has.

Tools and scripts mix up corners, widths and centers, and nothing in a file says which it holds. Where many boxes reach
far beyond their images in the format's own form, and every one of them fits in another form, they were mixed up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CORNERS, TOP_LEFT, CENTER = "corners", "top left", "center"

_WORDS = {
    CORNERS: "corners [x0, y0, x1, y1]",
    TOP_LEFT: "the upper left corner with width and height [x, y, w, h]",
    CENTER: "the center with width and height [x, y, w, h]",
}
_FEWEST, _SHARE = 2, 0.1  # boxes that have to be outside
_FAR, _NEAR = 0.02, 1.0  # share of the image, and pixels


def mixed_up(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]], form: str) -> str | None:
    """What the boxes of a split are instead, as a phrase; None where they are what they should be, or who knows.

    Args:
        boxes: four numbers each, in pixels.
        sizes: height and width of the image of each box.
        form: of the format: `CORNERS`, `TOP_LEFT` or `CENTER`.
    """
    if len(boxes) < _FEWEST:
        return None
    values, limits = np.array(boxes, dtype=np.float64), np.array(sizes, dtype=np.float64)
    if values.max() <= 1 and limits.min() > 1:
        return "all boxes have numbers from 0 to 1, and are shares of their images; write pixels"
    outside = int((~_inside(values, limits, form, slack=_FAR)).sum())
    if outside < max(_FEWEST, _SHARE * len(values)):
        return None
    for other, words in _WORDS.items():
        if other != form and _inside(values, limits, other, slack=0).all():
            return (
                f"{outside} of {len(values)} boxes reach beyond their images, and all fit as {words}; "
                f"write them as {_WORDS[form]}"
            )
    return None


def _inside(values: np.ndarray, limits: np.ndarray, form: str, *, slack: float) -> np.ndarray:
    """bool (N,): which boxes lie in their images, if they are of this form."""
    first, second = values[:, :2], values[:, 2:]
    if form == TOP_LEFT:
        second = first + second
    elif form == CENTER:
        first, second = first - second / 2, first + second / 2
    width_and_height = limits[:, ::-1]
    more = slack * width_and_height + _NEAR
    inside: np.ndarray = ((first >= -more) & (second <= width_and_height + more) & (first <= second)).all(axis=1)
    return inside
