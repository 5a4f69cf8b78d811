"""The published tables as data: Tables I to XIII of arXiv:2507.16624.

The numbers are those that the paper prints; titles, notes and remarks are ours. A remark says where the paper
contradicts itself, or why a number of ours differs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

Kind = Literal["layout", "parameters", "flops", "accuracy", "speed", "memory", "printed"]
"""What a column holds: numbers of a design, one a stage; counts; results of trained networks; measurements of a device;
or something that the paper works out from other columns."""

Value = float | tuple[int, ...] | None


@dataclass(frozen=True)
class Column:
    """One column of numbers."""

    key: str
    """unique in its table"""
    label: str
    unit: str
    kind: Kind
    size: tuple[int, int] | None = None
    """height and width of the images in pixels, where they matter"""
    batch: int | None = None
    """images in a batch of the published measurement"""
    metric: str | None = None
    """name of the result in `a2mamba eval --json`"""
    data: str | None = None
    """data set on whose validation images the result is taken"""
    multi_scale: bool = False
    """whether the result is the average of several scales and mirror images"""


@dataclass(frozen=True)
class Row:
    """One network of a table."""

    name: str
    group: str | None
    """block of the table that the row is in; None where a table has none"""
    type: str | None
    """C convolutional, T transformer, M Mamba, H hybrid; None where a table does not say"""
    values: tuple[Value, ...]
    """one a column of the table; None where the paper prints nothing"""
    remark: str | None


@dataclass(frozen=True)
class Table:
    """One published table."""

    number: str
    """Roman, as the paper writes it"""
    title: str
    note: str
    """what all rows share"""
    remarks: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def value(self, row: Row, key: str) -> Value:
        """Return what the paper prints for a row in the column of this key."""
        return row.values[[column.key for column in self.columns].index(key)]


@cache
def published_tables() -> dict[str, Table]:
    """Return all tables by their Roman numbers, in the paper's order."""
    text = resources.files("a2mamba.paper").joinpath("tables.json").read_text(encoding="utf-8")
    return {number: _table(number, record) for number, record in json.loads(text).items()}


def find_table(name: str) -> Table:
    """Return a table by its number: II, ii, 2 or table2.

    Raises:
        ValueError: if there is none of this number.
    """
    known = published_tables()
    word = name.lower().removeprefix("table").strip()
    for place, (number, table) in enumerate(known.items(), start=1):
        if word in (number.lower(), str(place)):
            return table
    raise ValueError(f"no table {name!r}; the paper has Tables {', '.join(known)}")


def decimals(value: float) -> int:
    """Return the digits behind the point of a printed number: 0 for 28, 1 for 4.0."""
    return 0 if isinstance(value, int) else len(repr(value).partition(".")[2])


def _table(number: str, record: dict[str, Any]) -> Table:
    columns = tuple(Column(**{**c, "size": tuple(c["size"]) if "size" in c else None}) for c in record["columns"])
    leading, remarks = record["leading"], record["row_remarks"]
    rows = []
    for cells in record["rows"]:
        named = dict(zip(leading, cells, strict=False))
        values = tuple(tuple(cell) if isinstance(cell, list) else cell for cell in cells[len(leading) :])
        assert len(values) == len(columns), f"Table {number}, {named['name']}"
        rows.append(Row(named["name"], named.get("group"), named.get("type"), values, remarks.get(named["name"])))
    return Table(number, record["title"], record["note"], tuple(record["remarks"]), columns, tuple(rows))
