"""How numbers of a table are written."""

from __future__ import annotations

from a2mamba.paper.report import Cell
from a2mamba.paper.tables import Value


def number_text(value: Value) -> str:
    """Return a number with the digits that are worth reading; a dash where there is none."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    digits = len(repr(value).partition(".")[2])
    if digits <= 1:  # as it was printed
        return f"{value:,}"
    return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.1f}" if abs(value) < 1000 else f"{value:,.0f}"


def difference_text(cell: Cell) -> str:
    """Return by how much ours differs: points of a result, percent of a count; nothing where it makes no sense."""
    if cell.difference is None or not isinstance(cell.published, (int, float)):
        return ""
    if cell.column.unit == "%":
        return f"{cell.difference:+.2f} points"
    return f"{100 * cell.difference / cell.published:+.1f} %"
