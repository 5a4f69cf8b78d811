"""docs/network.md says what is built, and whoever cites it cites a section that it has."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import pytest

import a2mamba
from a2mamba.analysis import parameters
from a2mamba.backbone.registry import REGISTERED
from a2mamba.catalog import FACTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "network.md").read_text()
COLUMNS = {
    "channels": "channels",
    "blocks": "depths",
    "heads": "heads",
    "windows": "kernel_sizes",
    "MLP ratio": "mlp_ratios",
    "scaling": "scaling",
    "initial scale": "scale_init",
    "crop": "crop_pct",
}
"""Column of the table -> field of the variant."""


def table() -> dict[str, dict[str, str]]:
    """Model -> column -> text, of the table of variants."""
    section = TEXT.split("## 1. Variants")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    head, _, *body = rows
    return {row[0].strip("`"): dict(zip(head, row, strict=True)) for row in body}


def test_every_backbone_has_its_row() -> None:
    assert list(table()) == a2mamba.list_models()


@pytest.mark.parametrize("name", a2mamba.list_models())
def test_the_table_is_what_is_built(name: str) -> None:
    """``tests/analysis/test_flops.py`` recounts the FLOPs of ``FACTS`` on the models themselves."""
    row, variant = table()[name], asdict(REGISTERED[name])
    for column, field in COLUMNS.items():
        value = variant[field] if isinstance(variant[field], tuple) else (variant[field],)
        found = row[column].split()
        assert found == [x if isinstance(x, str) else f"{x:g}" for x in value], column
    assert row["parameters"] == f"{parameters(a2mamba.create_model(name, device='meta')):,}"
    assert row["FLOPs"] == f"{FACTS[name].flops:,}"


def test_cited_sections_exist() -> None:
    sections = set(re.findall(r"^## (\d+)\. ", TEXT, flags=re.MULTILINE))
    assert sections == {str(i) for i in range(1, len(sections) + 1)}
    cited = []
    for file in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]:
        for name, numbers in re.findall(r"([\w/]+\.md), sections? ([\d, and]*\d)", file.read_text()):
            if name == "docs/network.md":
                cited += re.findall(r"\d+", numbers)
    assert len(cited) > 15
    assert set(cited) <= sections
    assert set(re.findall(r"\(#(\d+)-", TEXT)) <= sections
