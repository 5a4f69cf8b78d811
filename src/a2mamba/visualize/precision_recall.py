"""Plots of detection results."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from a2mamba.evaluation.coco import CocoMetric, IouType
from a2mamba.files import replace_file

_IOUS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.9)


def precision_recall_plot(metric: CocoMetric, path: Path | str, *, iou_type: IouType = "bbox") -> None:
    """Write a PNG: precision over recall, the mean of all categories, for IoU thresholds from 0.5 to 0.9.

    Args:
        metric: with results.
        path: file to write; its folder is made.
        iou_type: boxes or masks.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: as `CocoMetric.precision_recall`.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "a2mamba[demo]"') from error
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for iou, shade in zip(_IOUS, np.linspace(0.1, 0.85, len(_IOUS)), strict=True):
        recall, precision = metric.precision_recall(iou_type, iou=iou)
        label = f"IoU {iou:.2f}: AP {100 * precision.mean():.1f}"
        axes.plot(recall, precision, color=colormaps["viridis"](shade), linewidth=1.8, label=label)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(True, color="#e4e6ea")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.set_title(f"{'boxes' if iou_type == 'bbox' else 'masks'}, {len(metric.image_ids)} images")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    replace_file(path, partial(figure.savefig, format="png", dpi=150))
