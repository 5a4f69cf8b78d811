"""The documentation is built as a site, strictly: a broken link or a page outside of the navigation is an error."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import yaml

import a2mamba
from a2mamba.cli.main import COMMANDS
from a2mamba.recipes import RECIPES
from snippets import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason='mkdocs-material is missing: pip install "a2mamba[docs]"'
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


def build(configuration: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", configuration, "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"([^\"]+)", text)
        loaded += re.findall(r"<link\b[^>]*\brel=\"(?:stylesheet|preload|icon)\"[^>]*\bhref=\"([^\"]+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=\"([^\"]+)\"[^>]*\brel=\"(?:stylesheet|preload|icon)\"", text)
        assert [target for target in loaded if re.match(r"(https?:)?//", target)] == [], page
        assert loaded
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_generated_pages_are_complete(site: Path) -> None:
    recipes, commands, reference = (
        unescape((site / f"{name}.html").read_text(encoding="utf-8")) for name in ("recipes", "commands", "reference")
    )
    assert [name for name in RECIPES if f">{name}" not in recipes] == []
    assert [name for name in COMMANDS if f'id="{name}"' not in commands] == []
    names = [name for name in a2mamba.__all__ if name not in ("__version__", "analysis", "ops")]
    assert [name for name in names if f'id="a2mamba{name.lower()}"' not in reference] == []


def test_images_are_small(site: Path) -> None:
    sizes = {image.name: image.stat().st_size for image in (site / "assets").glob("*.png")}
    assert sizes["results.png"] < 200_000
    assert not list((site / "assets").glob("*.py"))


def test_notes_beside_the_code_are_pages(site: Path) -> None:
    network = (site / "network.html").read_text(encoding="utf-8")
    assert 'href="code/segmentation.html"' in network
    assert (site / "code" / "ops" / "neighborhood.html").exists()


def test_options_are_not_broken_at_their_dashes(site: Path) -> None:
    text = (site / "explain.html").read_text(encoding="utf-8")
    assert '<code><span class="option">--class</span></code>' in text
    assert '<span class="option">--beside</span><span class="w"> </span' in text
    assert re.findall(r"<[^>]*<span class=\"option\"", text) == [], "not inside of tags"


def test_a_broken_link_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("[gone](gone.md)\n")
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    settings = {key: value for key, value in settings.items() if key not in ("nav", "hooks", "extra_css")}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(settings))
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert "gone.md" in done.stderr
