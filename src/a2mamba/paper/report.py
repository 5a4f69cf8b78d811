"""A published table with our numbers beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from a2mamba.paper import counting
from a2mamba.paper.results import IMAGES, Result
from a2mamba.paper.subjects import Subject, subject
from a2mamba.paper.tables import Column, Row, Table, Value, decimals

Origin = Literal["computed", "recorded", "measured"]
"""Where a number of ours is from: counted now, the user's results file, or timed now on this device."""

SCALE = {"parameters": 1e6, "flops": 1e9}

TOLERANCE = 0.01
"""Counts agree with the paper where they round to what it prints, or differ by less than this share."""


@dataclass(frozen=True)
class Speed:
    """What was measured of one model at one image size."""

    images_per_second: float
    batch: int
    peak_memory_mb: float | None


Measurements = Mapping[tuple[str, int], Speed]
"""Model and image side -> what was measured."""


@dataclass(frozen=True)
class Cell:
    """One number of the paper, and ours."""

    column: Column
    published: Value
    ours: Value = None
    origin: Origin | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, where both are numbers of the same thing: speeds of two devices are not."""
        if isinstance(self.published, (int, float)) and isinstance(self.ours, (int, float)):
            return None if self.origin == "measured" else self.ours - self.published
        return None

    @property
    def agrees(self) -> bool | None:
        """Whether ours is what the paper prints, see `TOLERANCE`; None where the two cannot be compared."""
        if self.published is None or self.ours is None or self.origin == "measured":
            return None
        if isinstance(self.published, tuple) or isinstance(self.ours, tuple):
            return self.published == self.ours
        rounded = abs(round(self.ours, decimals(self.published)) - self.published) < 1e-9
        share = TOLERANCE if self.origin == "computed" else 0.0
        return rounded or abs(self.ours - self.published) < share * abs(self.published)

    def to_dict(self) -> dict[str, Any]:
        """Return what `a2mamba paper --json` prints of a cell."""
        return {
            "published": self.published,
            "ours": self.ours,
            "difference": self.difference,
            "origin": self.origin,
            "agrees": self.agrees,
        }


@dataclass(frozen=True)
class ReportRow:
    """One row of a table with our numbers."""

    row: Row
    subject: Subject | None
    cells: tuple[Cell, ...]
    remarks: tuple[str, ...]

    @property
    def ours(self) -> bool:
        """Whether this package has the network of the row."""
        return self.subject is not None and self.subject.ours

    @property
    def commands(self) -> list[str]:
        """The commands that train and evaluate the row."""
        return [] if self.subject is None else self.subject.commands

    @property
    def disagreements(self) -> list[Cell]:
        """The cells of counts or designs in which we and the paper differ."""
        return [cell for cell in self.cells if cell.origin == "computed" and cell.agrees is False]

    def to_dict(self) -> dict[str, Any]:
        """Return what `a2mamba paper --json` prints of a row."""
        return {
            "name": self.row.name,
            "group": self.row.group,
            "type": self.row.type,
            "model": None if self.subject is None else self.subject.model,
            "cells": {cell.column.key: cell.to_dict() for cell in self.cells},
            "remarks": list(self.remarks),
            "commands": self.commands,
        }


@dataclass(frozen=True)
class Report:
    """One table with our numbers."""

    table: Table
    rows: tuple[ReportRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what `a2mamba paper --json` prints of a table."""
        return {
            "table": self.table.number,
            "title": self.table.title,
            "note": self.table.note,
            "remarks": list(self.table.remarks),
            "columns": [
                {"key": column.key, "label": column.label, "unit": column.unit, "kind": column.kind}
                for column in self.table.columns
            ],
            "rows": [row.to_dict() for row in self.rows],
        }


def make_report(
    table: Table,
    *,
    results: Sequence[Result] = (),
    measurements: Measurements | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Report:
    """Count every network of a table that this package or timm has, and look up what was recorded and measured.

    Args:
        table: see :func:`a2mamba.paper.published_tables`.
        results: of the user's own evaluations; of several that fit a cell the last one counts.
        measurements: of this device.
        progress: called with the name of every row that is counted.
    """
    rows = []
    for row in table.rows:
        found = subject(table.number, row.name)
        if found is None:
            rows.append(ReportRow(row, None, tuple(map(Cell, table.columns, row.values)), _remarks(row)))
            continue
        progress(f"Table {table.number}: {row.name}")
        partial = [result for result in _of(found, results) if result.images != IMAGES[_data(found, result)]]
        remarks = [
            f"A recorded result is left out: {result.images:,} images were looked at, the validation set has "
            f"{IMAGES[_data(found, result)]:,}."
            for result in partial
        ]
        cells = tuple(
            _cell(column, published, found, results, measurements or {})
            for column, published in zip(table.columns, row.values, strict=True)
        )
        rows.append(ReportRow(row, found, cells, _remarks(row, *remarks)))
    return Report(table, tuple(rows))


def _remarks(row: Row, *more: str) -> tuple[str, ...]:
    return (*([] if row.remark is None else [row.remark]), *more)


def _cell(
    column: Column, published: Value, found: Subject, results: Sequence[Result], measurements: Measurements
) -> Cell:
    ours: Value = None
    origin: Origin = "computed"
    if column.kind == "layout":
        ours = counting.layout(found)[column.key]
    elif column.kind == "parameters":
        ours = counting.count_parameters(found) / SCALE["parameters"]
    elif column.kind == "flops":
        assert column.size is not None
        ours = counting.count_flops(found, column.size) / SCALE["flops"] if published is not None else None
    elif column.kind == "accuracy":
        ours, origin = _recorded(column, found, results), "recorded"
    elif column.kind in ("speed", "memory"):
        assert column.size is not None
        speed = measurements.get((found.model, column.size[0]))
        if speed is not None:
            ours, origin = speed.images_per_second if column.kind == "speed" else speed.peak_memory_mb, "measured"
    return Cell(column, published, ours, None if ours is None else origin)


def _recorded(column: Column, found: Subject, results: Sequence[Result]) -> float | None:
    assert column.metric is not None
    fitting = [
        result.metrics[column.metric]
        for result in _of(found, results)
        if column.metric in result.metrics
        and _data(found, result) == column.data
        and result.images == IMAGES[column.data]
        and result.multi_scale == column.multi_scale
        and (column.size is None or result.image_size == column.size[0])
    ]
    return fitting[-1] if fitting else None


def _of(found: Subject, results: Sequence[Result]) -> list[Result]:
    """The results of a row's own runs."""
    runs = {(run.recipe, run.model) for run in found.runs}
    return [result for result in results if (result.recipe, result.model) in runs]


def _data(found: Subject, result: Result) -> str:
    return next(run.data for run in found.runs if (run.recipe, run.model) == (result.recipe, result.model))
