"""Writing files so that a reader, or a crash, never finds half of one; reading JSON that nobody vouches for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(path: str | Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Let `write` make a temporary file beside `path`, and rename it there; a missing folder is made.

    Args:
        path: the file; an older one stays as it is until the new one is whole.
        write: takes the path of the temporary file, which does not exist yet.
        durable: come back only when the file would survive a power failure.

    Raises:
        OSError: the file cannot be written; nothing is left beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write(temporary)
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if durable and os.name == "posix":  # elsewhere a folder cannot be opened, and the rename is durable by itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def replace_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8, line ends as they are) as `replace_file` does, durably."""
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8", newline=""), durable=True)


def parse_json(text: str, name: str) -> dict[str, Any]:
    """The object in a JSON text. ValueError, one line that begins with ``name``, where there is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} is damaged: expected a JSON object, found {type(content).__name__}")
    return content


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file (UTF-8). ValueError, one line that begins with its path, where it cannot be read."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    return parse_json(text, str(path))


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["parse_json", "read_json", "replace_file", "replace_text", "sha256_of"]
