"""Small text files that people write beside their data: any editor's line ends and byte order mark are taken."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one.

    Raises:
        ValueError: the file cannot be read, or is in another encoding.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror or 'unreadable'}") from error
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text; save it as UTF-8") from error


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not empty, without blanks at either end.

    Raises:
        ValueError: as `read_text`.
    """
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def read_names(file: Path) -> list[str]:
    """The names in a text file, one a line: a class has the number of its line.

    Raises:
        ValueError: as `read_text`, an empty line between two names, which may stand for a class or for nothing, or
            numbers before the names that are in another order.
    """
    lines = [line.strip() for line in read_text(file).strip().splitlines()]
    if "" in lines:
        above = lines.index("")
        below = next(line for line in lines[above:] if line)
        raise ValueError(
            f"{file} has an empty line between {lines[above - 1]!r} and {below!r}, and a class has the number of its "
            f"line; write a name there, or remove it"
        )
    refuse_other_order(lines, file)
    return lines


def refuse_other_order(names: Sequence[str], file: Path) -> None:
    """Raise ValueError where names begin with the numbers of their classes, and these are not those of the lines."""
    found = [re.match(r"(\d+)\s*[\s:;,.=)-]\s*\S", name) for name in names]
    numbers = [int(match[1]) for match in found if match is not None]
    counted = any(sorted(numbers) == list(range(first, first + len(names))) for first in (0, 1))
    if counted and numbers != sorted(numbers):
        raise ValueError(
            f"{file} has {names[0]!r} in its first line, and a class has the number of its line; write the lines in "
            f"the order of their numbers"
        )
