"""The README files beside the code become pages, and links to them lead there.

Links to other files of the repository, which are not on the site, become the names of the files.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "a2mamba"
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s:]+)(#[^)]*)?\)")


def pages() -> dict[str, Path]:
    """Return the page of each README: `ops/readout/README.md` is `code/ops/readout.md`."""
    found = sorted(PACKAGE.rglob("README.md"))
    return {f"code/{file.parent.relative_to(PACKAGE).as_posix()}.md": file for file in found}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    for name, file in pages().items():
        files.append(File.generated(config, name, content=file.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files at their pages."""
    sources = pages()
    docs = ROOT / "docs"
    places = {file: name for name, file in sources.items()}
    origin = sources.get(page.file.src_uri, docs / page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        text, written, anchor = link.groups(default="")
        target = (origin.parent / written).resolve()
        if origin.is_relative_to(docs) and target.is_relative_to(docs):
            return link[0]
        name = places.get(target)
        if name is None and target.is_relative_to(docs):
            name = target.relative_to(docs).as_posix()
        if name is None:
            return f"`{target.relative_to(ROOT).as_posix()}`" if target.exists() else link[0]
        return f"[{text}]({os.path.relpath(name, PurePosixPath(page.file.src_uri).parent)}{anchor})"

    return _LINK.sub(moved, markdown)
