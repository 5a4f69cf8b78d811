"""Names and colors of classes from the files that people and tools write beside label files.

classes.txt      one name a line, or a name and its red, green, blue
labelmap.txt     name:red,green,blue, with more behind a colon (CVAT)
class_dict.csv   name, red, green, blue
palette.json     {"name": [r, g, b]}, {"name": "#rrggbb"}, {"0": "name"}, {"name": 0}, or a list of {"name": ...} with
                 or without "color" and "id"; numbers decide the order
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from a2mamba.data.names import some
from a2mamba.data.segmentation.datasets.spec import Palette
from a2mamba.data.segmentation.labels import IGNORE_LABEL
from a2mamba.data.text import read_lines, read_text, refuse_other_order

CLASS_NAMES_FILE = "classes.txt"
_TEXT = (CLASS_NAMES_FILE, "labelmap.txt", "class_dict.csv", "label_colors.txt", "class_names.txt", "labels.txt")
_JSON = ("palette.json", "classes.json", "labels.json", "colors.json", "class_dict.json", "label_colors.json")
_NAME_AND_COLOR = re.compile(r"(.*?\S)[\s,;:]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})\s*(:.*)?")
_COLOR_AND_NAME = re.compile(r"(\d{1,3})[\s,;]+(\d{1,3})[\s,;]+(\d{1,3})[\s,;:]+(.*\S)")
_HEX = re.compile(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})")
_HEADER = re.compile(r"name\s*[,;]\s*r(ed)?\s*[,;].*", re.IGNORECASE)


class ListedClasses(NamedTuple):
    """Names in the order of class indices, the color of each where the file has them, and the file."""

    names: list[str]
    colors: Palette | None
    file: Path


def find_listed_classes(root: Path) -> ListedClasses | None:
    """The first of the files in root that lists classes; None without one.

    Raises:
        ValueError: the file is no such list; the message names it.
    """
    for name in _TEXT:
        if (root / name).is_file():
            return _checked(_parse_text(root / name), root / name)
    for name in _JSON:
        if (root / name).is_file():
            return _checked(_parse_json(root / name), root / name)
    return None


def _parse_text(file: Path) -> list[tuple[str, tuple[int, int, int] | None]]:
    lines = [line for line in read_lines(file) if not line.startswith("#") and not _HEADER.fullmatch(line)]
    entries: list[tuple[str, tuple[int, int, int] | None]] = []
    for line in lines:
        if found := _NAME_AND_COLOR.fullmatch(line):
            entries.append((found[1].strip(" ,;:"), (int(found[2]), int(found[3]), int(found[4]))))
        elif found := _COLOR_AND_NAME.fullmatch(line):
            entries.append((found[4], (int(found[1]), int(found[2]), int(found[3]))))
        else:
            # CVAT's lines without a color: "name:::"
            entries.append((line.rstrip(":") if file.name == "labelmap.txt" else line, None))
    return entries


def _parse_json(file: Path) -> list[tuple[str, tuple[int, int, int] | None]]:
    try:
        content = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON: {str(error) or 'nested too deeply'}") from error
    if isinstance(content, dict) and len(content) == 1 and isinstance(next(iter(content.values())), list):
        (inner,) = content.values()  # {"classes": [...]}
        content = inner if not _color(inner) else content
    content = _in_order(content)
    if isinstance(content, dict):
        pairs: list[tuple[Any, Any]] = list(content.items())
        if pairs and all(isinstance(value, dict) for _, value in pairs):
            return [(str(value.get("name", key)), _color(value.get("color"))) for key, value in pairs]
        if pairs and all(isinstance(value, str) and not _color(value) for _, value in pairs):
            return [(str(value), _color(key)) for key, value in pairs]  # {"#rrggbb": name}, {"0": name}
        return [(str(key), _color(value)) for key, value in pairs]
    if isinstance(content, list):
        return [
            (str(value.get("name", value.get("label", ""))), _color(value.get("color")))
            if isinstance(value, dict)
            else (str(value), None)
            for value in content
        ]
    raise ValueError(f'{file}: expected {{"name": [red, green, blue], ...}} or a list of names')


def _in_order(content: Any) -> Any:
    """Classes in the order of their numbers, where each has one: what writes JSON sorts "10" before "2"."""
    if isinstance(content, list):
        numbers = [value.get("id") if isinstance(value, dict) else None for value in content]
        if all(type(number) is int for number in numbers):
            return sorted(content, key=lambda value: value["id"])
    if isinstance(content, dict):
        pairs = list(content.items())
        if all(key.isdecimal() for key, _ in pairs):  # {"0": name}
            return dict(sorted(pairs, key=lambda pair: int(pair[0])))
        if all(type(value) is int for _, value in pairs):  # {name: 0}
            return dict(sorted(pairs, key=lambda pair: pair[1]))
    return content


def _color(value: Any) -> tuple[int, int, int] | None:
    if isinstance(value, str) and (found := _HEX.fullmatch(value.strip())):
        return int(found[1], 16), int(found[2], 16), int(found[3], 16)
    if isinstance(value, (list, tuple)) and len(value) >= 3 and all(isinstance(part, int) for part in value[:3]):
        return value[0], value[1], value[2]
    return None


def _checked(entries: list[tuple[str, tuple[int, int, int] | None]], file: Path) -> ListedClasses:
    names = [name for name, _ in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or not all(names) or twice or len(names) > IGNORE_LABEL:
        found = f"names given twice: {some(twice)}" if twice else f"{len(names)} names"
        raise ValueError(f"{file} holds {found}; expected 1 to 255 different class names, one a line")
    refuse_other_order(names, file)
    colors = tuple(color for _, color in entries if color is not None)
    if 0 < len(colors) < len(names):
        without = [name for name, color in entries if color is None]
        raise ValueError(f"{file} has no color for {some(without)}; expected one for each class, or for none")
    if any(part > 255 for color in colors for part in color):
        raise ValueError(f"{file}: a color is out of range; expected three numbers from 0 to 255")
    return ListedClasses(names, colors or None, file)
