"""Images of measurements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from a2mamba.catalog import FACTS, published_top1
from a2mamba.files import replace_file

if TYPE_CHECKING:
    from a2mamba.analysis.throughput import Row


def accuracy_against_speed(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG: published top-1 accuracy on ImageNet-1K over the images per second measured here.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if no model of the rows has a published accuracy that we know.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "a2mamba[demo]"') from error
    points = []
    for row in rows:
        accuracy = published_top1(row.model)
        if accuracy is not None:
            points.append((row, accuracy, row.model in FACTS))
    if not points:
        raise ValueError("none of these models has a published accuracy that we know; write .json or .csv instead")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for row, accuracy, ours in points:
        axes.scatter(row.images_per_second, accuracy, s=60, color="#1f6fb5" if ours else "#8a8f98", zorder=3)
        axes.annotate(
            row.model, (row.images_per_second, accuracy), xytext=(7, 5), textcoords="offset points", fontsize=9
        )
    first = rows[0]
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.15)
    axes.grid(True, which="both", color="#e4e6ea", zorder=0)
    axes.set_xlabel(
        f"images per second, {first.mode} at {first.size}, batch {first.batch}, {first.dtype}, {first.device}"
    )
    axes.set_ylabel("published top-1 on ImageNet-1K, %")
    replace_file(path, partial(figure.savefig, format="png", dpi=150))
