"""The categories of a COCO file, and those of the training file beside it."""

from __future__ import annotations

import json
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from a2mamba.data.detection.annotations import Category, Problem, match_categories, refuse_in
from a2mamba.data.detection.readers.coco_files import training_file
from a2mamba.data.detection.readers.coco_json import load_content, look_at_bytes, new_identity

_CATEGORIES_LENGTH = 1 << 20  # bytes; a list of ten thousand categories is shorter


def detection_categories(file: Path | str) -> tuple[Category, ...]:
    """The categories of an annotation file: label k is at position k - 1, as in `read_annotations`.

    Raises:
        ValueError: as `read_annotations`, for the categories alone.
    """
    path = Path(file)
    entries = _quick_entries(path)
    if entries is None:
        entries = load_content(path)["categories"]
    expected = training_categories(path, entries)
    own = read_categories(entries, refuse_in(path))
    return own if expected is None else match_categories(own, expected, problem=refuse_in(path))[0]


def read_categories(entries: Sequence[Any], problem: Problem) -> tuple[Category, ...]:
    """The categories of a file's list of them, by increasing id."""
    seen: set[int] = set()
    found = []
    for place, entry in enumerate(entries):
        identity = new_identity(entry, seen, "category", place, problem)
        if identity is not None:
            found.append(Category(identity, str(entry.get("name", identity))))
    return tuple(sorted(found))


def training_categories(file: Path, entries: Sequence[Any]) -> tuple[Category, ...] | None:
    """The categories of the training file beside an evaluation file, where their names are the same."""
    training = training_file(file)
    if training is None:
        return None
    quiet: list[str] = []
    others = quick_categories(training)
    own = read_categories(entries, lambda _, text: quiet.append(text))
    if others is None or own == others or len(own) != len(others):
        return None
    match_categories(own, others, problem=lambda _, text: quiet.append(text))
    return None if quiet else others


def quick_categories(file: Path) -> tuple[Category, ...] | None:
    """The categories of a file, nearly always without reading the rest of it; None where they are not sound."""
    wrong: list[str] = []
    entries = _quick_entries(file)
    if entries is None:
        try:
            entries = load_content(file)["categories"]
        except ValueError:
            return None
    found = read_categories(entries, lambda _, text: wrong.append(text))
    return None if wrong else found


def _quick_entries(file: Path) -> list[Any] | None:
    """The list of categories as the file has it, without reading the rest; None where that is not enough."""
    return look_at_bytes(file, _category_list, None)


def _category_list(text: mmap.mmap) -> list[Any] | None:
    key = b'"categories"'
    start = text.find(key)
    if start < 0 or text.find(key, start + 1) >= 0:
        return None
    begin = text.find(b"[", start)
    if begin < 0 or text[start + len(key) : begin].strip() != b":":
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text[begin : begin + _CATEGORIES_LENGTH].decode("utf-8", "ignore"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and found else None
