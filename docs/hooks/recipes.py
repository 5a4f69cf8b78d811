"""The page of recipes, made from their documents when the site is built."""

from __future__ import annotations

import re
from textwrap import dedent

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from plain_text import plain

from a2mamba.recipes import RECIPES, document, has_paper_form

INTRODUCTION = """
# Recipes

A recipe is a document that can be run: where its numbers are from, its command, what it costs, what to expect, and
whether we have measured it. `a2mamba train RECIPE` runs one, `--dry-run` says first what it would do and cost, `--keys`
lists what can be changed by `key=value`, and `--small` runs its debug form, seconds on a CPU. This page is made from
the recipes themselves.

Recipes with *paper form* take `--paper`: what the paper says, where the authors' scripts differ.
"""
_LABEL = re.compile(r"^([A-Z][a-z]+(?: [a-z]+){0,3}): ", flags=re.MULTILINE)
_COMMAND = re.compile(r"^Command: ([^`\n]+)$", flags=re.MULTILINE)


def page() -> str:
    """Return the page as Markdown; recipes that share a document stand together."""
    shared: dict[str, list[str]] = {}
    for name, recipe in RECIPES.items():
        shared.setdefault(document(recipe), []).append(name)
    parts = [dedent(INTRODUCTION).strip()]
    for text, names in shared.items():
        summary, _, rest = text.partition("\n")
        rest = plain(_COMMAND.sub(r"Command: `\1`", rest))
        title = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        parts += [f"## {title}", plain(summary)]
        if len(names) > 1:
            parts.append(" ".join(f"`{name}`" for name in names))
        parts.append(_LABEL.sub(r"\n**\1**: ", rest).strip())
        forms = [name for name in names if has_paper_form(name)]
        if forms:
            parts.append("*Paper form*: " + ", ".join(f"`{name}`" for name in forms) + ".")
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    files.append(File.generated(config, "recipes.md", content=page()))
    return files
