"""The README files beside the code become pages, and links between them and the other pages lead there."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "a2mamba"
_LINK = re.compile(r"(\]\()([^)#\s:]+\.md)(#[^)]*)?\)")


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
    origin = sources.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri)
    places = {file: name for name, file in sources.items()}

    def moved(link: re.Match[str]) -> str:
        target = (origin.parent / link[2]).resolve()
        if target not in places and not (page.file.src_uri in sources and target.is_relative_to(ROOT / "docs")):
            return link[0]
        name = places[target] if target in places else target.relative_to(ROOT / "docs").as_posix()
        start = PurePosixPath(page.file.src_uri).parent
        return f"{link[1]}{os.path.relpath(name, start)}{link[3] or ''})"

    return _LINK.sub(moved, markdown)
