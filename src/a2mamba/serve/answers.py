"""A prediction as what a page shows: the task's own drawing, and its entries as bars."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from a2mamba.predictor import Predictor
from a2mamba.tasks import Prediction
from a2mamba.visualize import object_color

Color = tuple[int, int, int]


class TaskPage(NamedTuple):
    """How the page speaks of a task."""

    tab: str
    """heading of its tab"""
    verb: str
    """what its button says, and its name for programs"""
    entries: str
    """key of the list in `Prediction.to_dict`"""
    value: str
    """key of an entry's number, 0 to 1"""
    nothing: str
    """said where the list is empty"""
    listed: bool
    """whether the entries stand below the drawing, which does not name them all itself"""
    color: Callable[[Predictor, dict[str, Any]], Color]
    """of an entry, as in the drawing"""


_BLUE = (37, 99, 235)
TASK_PAGES = {
    "classification": TaskPage(
        "Classify", "classify", "top", "probability", "No class.", False, lambda _, entry: _BLUE
    ),
    "segmentation": TaskPage(
        "Segment", "segment", "classes", "share", "No class.", True, lambda by, entry: by.palette[entry["index"]]
    ),
    "detection": TaskPage(
        "Detect",
        "detect",
        "objects",
        "score",
        "No object was found.",
        True,
        lambda _, entry: object_color(entry["label"]),
    ),
}
"""By the task's name, in the order of the tabs."""

MAX_BARS = 12


def bars(prediction: Prediction, predictor: Predictor) -> str:
    """Return the entries of a prediction as HTML: name, number and bar of each; names are escaped."""
    page = TASK_PAGES[predictor.task]
    entries: Sequence[dict[str, Any]] = prediction.to_dict()[page.entries]
    if not entries:
        return f'<p class="a2-nothing">{page.nothing}</p>'
    rows = [_bar(entry["class"], entry[page.value], page.color(predictor, entry)) for entry in entries[:MAX_BARS]]
    left = len(entries) - len(rows)
    more = f'<p class="a2-nothing">and {left} more</p>' if left else ""
    return f'<ol class="a2-bars" aria-label="{page.value}">{"".join(rows)}</ol>{more}'


def _bar(name: str, value: float, color: Color) -> str:
    percent = f"{100 * value:.1f}"
    return (
        f'<li><span class="a2-name">{html.escape(name)}</span><span class="a2-number">{percent} %</span>'
        f'<span class="a2-track"><span style="width:{percent}%;background:rgb{color}"></span></span></li>'
    )
