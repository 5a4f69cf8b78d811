"""Names of options stay on one line; browsers would break them behind their dashes."""

from __future__ import annotations

import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mark the options in the text between tags, for site.css."""
    parts = re.split(r"(<[^>]*>)", html)
    parts[::2] = [_OPTION.sub(r'<span class="option">\g<0></span>', text) for text in parts[::2]]
    return "".join(parts)
