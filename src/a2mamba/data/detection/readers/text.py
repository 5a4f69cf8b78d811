"""Small text files of any editor."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path, *, limit: int = 1 << 28) -> str:
    """A file's text, UTF-8 with or without a byte order mark, or UTF-16 with one.

    Raises:
        ValueError: one line, naming the file: it cannot be read, is no text, or is longer than `limit` bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or 'unreadable'}") from error
    if len(content) > limit:
        raise ValueError(f"{path} has more than {limit:,} bytes, which no such file needs")
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8") from None
