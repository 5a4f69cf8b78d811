"""The page in headless Chromium: every tab, a click on a point, files that are refused, two visitors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from browser import Browser, Tab, needs_chromium

from .helpers import Page

pytestmark = [needs_chromium, pytest.mark.slow]

PANEL = "[...document.querySelectorAll('div[role=tabpanel]')].find(e => e.offsetParent)"
"""The one that is shown; those that were keep their content."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


def open_tab(browser: Browser, page: Page, name: str) -> Tab:
    tab = browser.open(page.url)
    button = f"[...document.querySelectorAll('button[role=tab]')].find(e => e.innerText === {json.dumps(name)})"
    tab.wait(f"!!{button}", 120)
    tab.run(f"{button}.click()")
    tab.wait(f"{button}.ariaSelected === 'true' && {PANEL}?.querySelectorAll('button.gallery-item').length === 6")
    return tab


def choose_example(tab: Tab, number: int) -> None:
    tab.run(f"{PANEL}.querySelectorAll('button.gallery-item')[{number}].click()")


def answered(tab: Tab, text: str = " ms on cpu") -> None:
    tab.wait(f"{PANEL}.innerText.includes({json.dumps(text)})", 120)


@pytest.mark.parametrize("name", ["Classify", "Segment", "Detect"])
def test_a_bundled_image_and_a_click(browser: Browser, page: Page, name: str, tmp_path: Path) -> None:
    tab = open_tab(browser, page, name)
    choose_example(tab, 4)
    answered(tab, "160 x 128 pixels")
    tab.wait(f"{PANEL}.querySelector('.a2-point img')?.naturalWidth === 448")
    tab.run(f"{PANEL}.querySelector('.a2-point img').id = 'here'")
    tab.click("#here", (0.4, 0.5))
    tab.wait(f"{PANEL}.innerText.includes('stage 4, global')")
    column, row = tab.run(f"[...{PANEL}.querySelectorAll('input[type=number]')].map(e => Number(e.value))")
    assert column > 0
    assert row > 0
    tab.screenshot(tmp_path / "page.png", whole=True)
    assert np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).std() > 10
    assert tab.complaints() == []
    outside = [url for url in tab.requests() if not url.startswith((page.url, "data:", "blob:"))]
    assert outside == [], "nothing comes from elsewhere, fonts neither"
    tab.resize(420, 900)
    assert tab.run("document.documentElement.scrollWidth") <= 420
    maps = f"{PANEL}.querySelector('.a2-maps .grid-wrap')"
    assert tab.run(f"{maps}.scrollHeight <= {maps}.clientHeight"), "all maps are seen"
    names = f"[...{maps}.querySelectorAll('.caption-label')]"
    assert tab.run(f"{names}.length") == 9
    assert tab.run(f"{names}.filter(e => e.scrollWidth > e.clientWidth).length") == 0, "their names are whole"


def test_files_that_are_refused(browser: Browser, page: Page, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    Image.new("1", (10_000, 10_000)).save(tmp_path / "hundred.png")  # megapixels
    with (tmp_path / "large.png").open("wb") as out:
        out.truncate(2 << 30)
    for file, said in {
        "bad.png": "cannot decode bad.png",
        "hundred.png": "10000 x 10000 pixels",
        "large.png": "size",
    }.items():
        tab = open_tab(browser, page, "Classify")
        tab.choose_file("div[role=tabpanel] input[type=file]", tmp_path / file)
        tab.wait(f"document.body.innerText.includes({json.dumps(said)})", 120)
        assert " ms on cpu" not in tab.run(f"{PANEL}.innerText")


def test_two_visitors_at_once(browser: Browser, page: Page, tmp_path: Path) -> None:
    first, second = (open_tab(browser, page, "Classify") for _ in range(2))
    for tab, size in ((first, (50, 70)), (second, (90, 40))):
        Image.new("RGB", size).save(tmp_path / f"{size[0]}.png")
        tab.choose_file("div[role=tabpanel] input[type=file]", tmp_path / f"{size[0]}.png")
    answered(first, "50 x 70 pixels")
    answered(second, "90 x 40 pixels")
    assert "90 x 40" not in first.run(f"{PANEL}.innerText")
