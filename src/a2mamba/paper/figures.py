"""Accuracy against cost: Fig. 1 of the paper, and the same view of any of its tables.

Fig. 5, effective receptive fields, is no view of a table, and is in receptive_fields.py.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from a2mamba.files import replace_file
from a2mamba.paper.report import Report, ReportRow
from a2mamba.paper.tables import Column

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIG_1 = (("II", "flops", "top1"), ("VII", "flops", "miou"), ("IV", "flops", "box_ap"))
"""Table, cost and accuracy of each panel of Fig. 1: classification, segmentation, detection."""

FAMILIES = {
    "A2Mamba": "a",
    "SegMAN-V2": "a",
    "SegMAN": "b",
    "TransNeXt": "c",
    "RMT": "d",
    "VMamba": "e",
    "ConvNeXt": "f",
    "Swin": "g",
    "SegFormer": "c",
    "SegNeXt": "d",
    "VWFormer": "e",
    "LRFormer": "f",
}
"""Families of networks that have a color of their own; all others are gray."""


@dataclass(frozen=True)
class Colors:
    """What the parts of a figure are drawn in."""

    ink: str
    soft: str
    rule: str
    families: dict[str, str]


_PRINT = Colors(
    "#1b1f24",
    "#59626d",
    "#dcdfe4",
    {"a": "#0072b2", "b": "#c4520a", "c": "#0b6b3f", "d": "#8e5aa8", "e": "#a8780b", "f": "#7a3b3b", "g": "#4a5bb5"},
)
# Each stands for a color of the page, which differs by day and night.
_PAGE = Colors("#010101", "#010102", "#010103", {name: f"#0102{i:02x}" for i, name in enumerate("abcdefg")})


@dataclass(frozen=True)
class Panel:
    """One scatter plot: a table, and which of its columns lie across and up."""

    report: Report
    across: str
    up: str
    measured: bool = False
    """whether what lies across was measured here; else the published numbers are shown"""

    def column(self, key: str) -> Column:
        """Return the column of a key."""
        return next(column for column in self.report.table.columns if column.key == key)

    def points(self) -> list[tuple[ReportRow, float, float]]:
        """Return the rows that have both numbers, with these."""
        found = []
        for row in self.report.rows:
            cells = {cell.column.key: cell for cell in row.cells}
            x = cells[self.across].ours if self.measured else cells[self.across].published
            y = cells[self.up].published
            if isinstance(x, (int, float)) and isinstance(y, (int, float)):
                found.append((row, float(x), float(y)))
        return found


def panels(reports: Sequence[Report]) -> list[Panel]:
    """Return the views of tables: published accuracy against multiply-accumulates, and against speeds measured here.

    Tables without multiply-accumulates or accuracy have no view.
    """
    views = []
    for report in reports:
        keys = {column.key: column for column in report.table.columns}
        cost = next((key for key in ("flops", "flops_224") if key in keys), None)
        gain = next((column.key for column in report.table.columns if column.kind == "accuracy"), None)
        if cost is None or gain is None:
            continue
        views.append(Panel(report, cost, gain))
        for column in report.table.columns:
            if column.kind == "speed":
                result = f"top1_{column.key.removeprefix('speed_')}"
                view = Panel(report, column.key, result if result in keys else gain, measured=True)
                views += [view] if view.points() else []
    return views


def fig_1(reports: Sequence[Report]) -> list[Panel]:
    """Return the panels of Fig. 1 for those of its tables that are among the reports, and those of measured speeds."""
    known = {report.table.number: report for report in reports}
    views = [Panel(known[number], across, up) for number, across, up in FIG_1 if number in known]
    return views + [panel for panel in panels(reports) if panel.measured]


def write_figure(views: Sequence[Panel], path: Path) -> None:
    """Write the panels side by side as .png, .svg or .pdf.

    Raises:
        ImportError: if matplotlib is not installed.
        ValueError: if there is nothing to draw, or for another ending.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"a figure is a .png, .svg or .pdf file, got {path}")
    replace_file(path, partial(_draw(views, _PRINT, title=True).savefig, format=kind, dpi=150))


def svg(view: Panel) -> str:
    """Return one panel as an SVG element that takes its colors from the page's style sheet.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure = _draw([view], _PAGE, title=False)
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{view.report.table.number}{view.across}"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    names = {"ink": _PAGE.ink, "soft": _PAGE.soft, "rule": _PAGE.rule, **_PAGE.families}
    for name, color in names.items():
        drawn = drawn.replace(color, f"var(--{name})")
    return drawn[drawn.index("<svg") :]


def family(name: str) -> str:
    """Return the family of a network: its name without its size."""
    short = name.removesuffix(" Encoder")
    return short.rpartition("-")[0] or short


def _draw(views: Sequence[Panel], colors: Colors, *, title: bool) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "a2mamba[demo]"') from error
    if not views:
        raise ValueError("there is no figure of this table: it has no accuracy, or nothing that it costs")
    figure = Figure(figsize=(5.2 * len(views), 4.4), layout="constrained")
    for axes, view in zip(figure.subplots(1, len(views), squeeze=False)[0], views, strict=True):
        _panel(axes, view, colors, title=title)
    return figure


def _panel(axes: Axes, view: Panel, colors: Colors, *, title: bool) -> None:
    families: dict[str, list[tuple[ReportRow, float, float]]] = {}
    for row, x, y in view.points():
        families.setdefault(family(row.row.name), []).append((row, x, y))
    others = [name for name in families if name not in FAMILIES]
    for name in others:
        _line(axes, families[name], colors.soft, label=None if name != others[0] else "others", ours=False)
    for name in [name for name in FAMILIES if name in families]:
        ours = name in ("A2Mamba", "SegMAN-V2")
        _line(axes, families[name], colors.families[FAMILIES[name]], label=name, ours=ours)
    across, up = view.column(view.across), view.column(view.up)
    axes.set_xscale("log")
    axes.margins(x=0.08, y=0.1)
    axes.set_xticks(_ticks(*axes.get_xlim()), minor=False)
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(True, color=colors.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colors.soft, labelsize=9, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(colors.rule)
    where = "measured here" if view.measured else f"{across.unit}, published"
    axes.set_xlabel(f"{across.label}, {where}", color=colors.soft, fontsize=10)
    axes.set_ylabel(f"{up.label}, {up.unit}, published", color=colors.soft, fontsize=10)
    if title:
        text = textwrap.fill(f"Table {view.report.table.number}: {view.report.table.title}", 56)
        axes.set_title(text, color=colors.ink, fontsize=11, loc="left")
    axes.legend(
        loc="upper left" if view.measured else "lower right", fontsize=9, frameon=False, labelcolor=colors.ink, ncols=2
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two limits of a logarithmic axis, at least three where its range has as many."""
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8)):
        ticks = [10.0**power * step for power in range(-2, 5) for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            break
    return inside


def _line(
    axes: Axes, points: Sequence[tuple[ReportRow, float, float]], color: str, *, label: str | None, ours: bool
) -> None:
    points = sorted(points, key=lambda point: point[1])
    gray = label is None or label == "others"
    axes.plot(
        [x for _, x, _ in points],
        [y for _, _, y in points],
        color=color,
        label=label,
        marker="o",
        markersize=7 if ours else 3.5 if gray else 5,
        linewidth=2.4 if ours else 0.7 if gray else 1.4,
        alpha=0.55 if gray else 1.0,
        zorder=4 if ours else 2 if gray else 3,
    )
    if ours:
        for row, x, y in points:
            axes.annotate(
                row.row.name.rpartition("-")[2],
                (x, y),
                xytext=(-4, 8),
                textcoords="offset points",
                ha="right",
                color=color,
                fontsize=10,
                fontweight="bold",
            )
