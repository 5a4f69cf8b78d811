"""What commands print: tables for people, one JSON object for programs."""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from a2mamba.quiet import errors_only

T = TypeVar("T")


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls of a terminal, marks that turn text around, and what stands for bytes of names that are no UTF-8."""


def printable(text: str) -> str:
    """Return a text in which names from files can do nothing to the terminal: what is no character is an escape."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def any_terminal() -> None:
    """Have stdout and stderr write what their encoding lacks as escapes, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on stdout; numbers that are none, such as the metric of an absent class, are null."""
    text = json.dumps(_without_nan(value), indent=2, ensure_ascii=not _is_unicode(sys.stdout.encoding))
    # Only bytes of file names that are no UTF-8 can be unprintable here.
    print(re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text))


def _is_unicode(encoding: str | None) -> bool:
    return encoding is None or encoding.lower().startswith("utf")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table on stdout; numbers are aligned to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) or row[i] == "" for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else printable(str(cell)) for cell in row))
    # A pipe has no width; wide enough then that no cell is folded. File names may look like markup.
    Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False, highlight=False).print(table)


def track(items: Iterable[T], description: str, *, total: int) -> Iterator[T]:
    """Yield the items; where stderr is a terminal, a bar shows how many are done and the time that is left."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


def say(text: str) -> None:
    """Print a remark on stderr, where it does not mix with results."""
    print(printable(text), file=sys.stderr)


def show_progress(done: int, total: int, what: str) -> None:
    """Keep one line on the terminal up to date; nothing in a log."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def without_load_notes() -> AbstractContextManager[None]:
    """Keep the notes of loading weights out of the log: the command prints the report, or the error, that has them."""
    return errors_only("a2mamba.backbone")
