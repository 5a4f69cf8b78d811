"""The page of commands, made from their help when the site is built."""

from __future__ import annotations

import contextlib
import io
import os

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from a2mamba.cli.main import COMMANDS, main

INTRODUCTION = """# Commands

What `a2mamba COMMAND --help` prints. A mistake is one line and exit status 2 (`--debug` shows the traceback),
Ctrl-C is 130. Progress goes to stderr and results to stdout; `--json` prints one JSON object and nothing else there.
"""


def shown_help(*words: str) -> str:
    """Return the help of a command, 100 columns wide; what `train` lists of the recipes is on their own page."""
    written = io.StringIO()
    os.environ["COLUMNS"] = "100"
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    before, found, after = written.getvalue().partition("Recipes:\n")
    return f"{before}Examples:{after.partition('Examples:')[2]}" if found else before


def page() -> str:
    """Return the page as Markdown."""
    parts = [INTRODUCTION]
    for command, summary in COMMANDS.items():
        parts += [
            f"## {command}",
            f"{summary[0].upper()}{summary[1:]}.",
            f"```text\n{shown_help(command).strip()}\n```",
        ]
    return "\n\n".join(parts) + "\n"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    files.append(File.generated(config, "commands.md", content=page()))
    return files
