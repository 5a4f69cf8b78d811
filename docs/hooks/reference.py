"""The page of Python names, made from signatures and docstrings when the site is built."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from plain_text import plain

import a2mamba

INTRODUCTION = """# Python

The names that keep their meaning from version to version. `import a2mamba` is light: each
name is imported at its first use.
"""

BESIDE = {
    "a2mamba.ops": ["neighborhood_attention", "selective_scan_state"],
    "a2mamba.analysis": ["flops"],
    "a2mamba.segmentation": ["predict"],
    "a2mamba.data": ["recognize", "check_dataset"],
    "a2mamba.recipes": ["make_run", "train", "dry_run"],
    "a2mamba.export": ["export_model"],
    "a2mamba.backbone": ["register"],
}
"""Module -> names beside those of the package itself."""

_HEADINGS = ("Args", "Attributes", "Returns", "Yields", "Raises")


def markdown(docstring: str) -> str:
    """Return a docstring in Google's form as Markdown: headings bold, arguments as a list."""
    text = plain(re.sub(r":\w+:`~?([^`]+)`", r"`\1`", docstring))
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        heading = line.rstrip().removesuffix(":")
        if line.endswith(":") and heading in _HEADINGS:
            inside = heading not in ("Returns", "Yields")
            lines += ["", f"**{heading}**", ""]
        elif inside and re.match(r" {4}\S", line):
            name, colon, meaning = line.strip().partition(": ")
            lines.append(f"- `{name}`: {meaning}" if colon else f"- {line.strip()}")
        elif inside and line.startswith("     "):
            lines.append(f"  {line.strip()}")
        else:
            inside = inside and not line.strip()
            lines.append(line.strip() if lines and line.startswith("    ") and "**" in "".join(lines[-3:]) else line)
    return "\n".join(lines)


def entry(owner: str, name: str, value: Any, level: int = 2) -> list[str]:
    """Return heading, signature and text of one name; of a class, those of its own public methods too."""
    full = f"{owner}.{name}"
    call = re.sub(r"<function (\w+)[^>]*>|<class '([^']+)'>", r"\1\2", _signature(value))
    parts = [f"{'#' * level} {full}", f"```text\n{name}{call}\n```", markdown(inspect.getdoc(value) or "")]
    if inspect.isclass(value):
        for method, function in vars(value).items():
            if not method.startswith("_") and inspect.isfunction(function):
                parts += entry(name, method, function, level + 1)
    return parts


def _signature(value: Any) -> str:
    """Return the arguments, one a line where they are many."""
    found = inspect.signature(value)
    returns = "" if found.return_annotation is found.empty else f" -> {_type(found.return_annotation)}"
    arguments = list(_arguments(found))
    line = f"({', '.join(arguments)}){returns}"
    return line if len(line) < 90 else "\n".join(["(", *(f"    {argument}," for argument in arguments), f"){returns}"])


def _arguments(found: inspect.Signature) -> Iterator[str]:
    keyword_only = False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            yield "*"
        annotation = "" if parameter.annotation is parameter.empty else f": {_type(parameter.annotation)}"
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        yield f"{parameter.name}{annotation}{default}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for name in sorted(a2mamba.__all__, key=str.lower):
        value = getattr(a2mamba, name)
        if not isinstance(value, (str, ModuleType)):
            parts += entry("a2mamba", name, value)
    for module, names in BESIDE.items():
        for name in names:
            parts += entry(module, name, getattr(importlib.import_module(module), name))
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    files.append(File.generated(config, "reference.md", content=page()))
    return files
