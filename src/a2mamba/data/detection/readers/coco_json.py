"""The JSON of a COCO file, parsed or looked at, and single values in it."""

from __future__ import annotations

import gc
import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from a2mamba.data.detection.annotations import Problem

T = TypeVar("T")


def load_content(path: Path) -> dict[str, Any]:
    """The file's JSON object, with the lists "images", "annotations" and "categories" in it.

    Raises:
        ValueError: one line, naming the file.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"annotation file {path} cannot be read: {error.strerror or 'unreadable'}; check the path"
        ) from error
    text = text.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise ValueError(f"annotation file {path} is empty; expected COCO's JSON")
    try:
        with _without_garbage_collection():
            content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"annotation file {path} is not JSON: {error}") from None
    except (ValueError, RecursionError):  # bytes that are no text, numbers of thousands of digits
        raise ValueError(f"annotation file {path} is not JSON") from None
    return checked_content(content, f"annotation file {path}")


def checked_content(content: Any, name: str) -> dict[str, Any]:
    """The content of the file ``name`` as `load_content` returns it.

    Raises:
        ValueError: one line, naming the file.
    """
    if not isinstance(content, Mapping):
        found = "a list (of predictions?)" if isinstance(content, list) else type(content).__name__
        raise ValueError(f"{name} holds {found}; expected an object with images, annotations, ...")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise ValueError(f"{name} has no {key!r}; found {', '.join(content) or 'nothing'}")
        if not isinstance(content[key], list):
            raise ValueError(f"{name}: {key!r} is {type(content[key]).__name__}, expected a list")
    for key in ("images", "categories"):
        if not content[key]:
            raise ValueError(f"{name} lists no {key}")
    return dict(content)


def look_at_bytes(file: Path, look: Callable[[mmap.mmap], T], default: T) -> T:
    """What `look` makes of a file's bytes, which are not copied; the default where it cannot be read."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return look(text)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return default


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """JSON makes no cycles, and looking for them again and again as millions of lists appear takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def new_identity(entry: Any, seen: set[int], what: str, place: int, problem: Problem) -> int | None:
    """The entry's id, which must be a new whole number; None after a problem."""
    if not isinstance(entry, dict):
        problem("no object", f"{what} number {place} is {type(entry).__name__}, expected an object")
        return None
    identity = whole_number(entry.get("id"))
    if identity is None:
        problem("no valid id", f"{what} number {place} has the id {entry.get('id')!r}, expected a whole number")
        return None
    if identity in seen:
        problem(f"duplicate {what} id", f"{what} id {identity} occurs twice")
        return None
    seen.add(identity)
    return identity


def whole_number(value: Any) -> int | None:
    """A whole number, also where it was written as 1.0 or "1"."""
    if type(value) is int:
        return value
    if type(value) is float and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    return None


def is_set(value: Any) -> bool:
    """Whether a mark is set, also where it was written as text: "0" is not."""
    return value.strip().lower() not in ("", "0", "0.0", "false", "no") if isinstance(value, str) else bool(value)


def finite_numbers(values: Any, count: int) -> list[float] | None:
    """A list of ``count`` finite numbers; None for anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    for value in values:
        if type(value) not in (int, float) or not math.isfinite(value):
            return None
    return [float(value) for value in values]
