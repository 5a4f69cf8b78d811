"""Text of docstrings inside Markdown."""

from __future__ import annotations

import html
import re


def plain(text: str) -> str:
    """Return text in which Markdown and HTML see nothing but what stands between backticks."""
    parts = re.split(r"(`[^`]*`)", text.replace("``", "`"))
    return "".join(
        part if part.startswith("`") else html.escape(part, quote=False).replace("*", r"\*") for part in parts
    )
