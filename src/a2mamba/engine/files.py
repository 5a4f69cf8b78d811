"""Writing files so that a reader, or a crash, never finds half of one."""

from __future__ import annotations

import os
from pathlib import Path


def replace_text(path: str | Path, text: str) -> None:
    """Write `text` (UTF-8, line ends as they are) beside `path` and rename it there; a missing folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
