"""Figures and the page show what the reports say; the page needs nothing from outside."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from a2mamba.paper import Report, Speed, find_table, make_report
from a2mamba.paper.figures import Panel, family, fig_1, panels, svg, write_figure
from a2mamba.paper.page import page

NAMES = ("A2Mamba-N", "ConvNeXt-T", "VMamba-T", "VMamba-S")


@pytest.fixture(scope="module")
def classification() -> Report:
    """A few rows of Table II."""
    table = find_table("II")
    return make_report(replace(table, rows=tuple(row for row in table.rows if row.name in NAMES)))


@pytest.fixture(scope="module")
def sizes() -> Report:
    """A row of Table VIII whose speed was measured."""
    table = find_table("VIII")
    return make_report(
        replace(table, rows=tuple(row for row in table.rows if row.name == "A2Mamba-N")),
        measurements={("a2mamba_nano", 224): Speed(33.25, 2, 512.0)},
    )


def test_a_panel_has_the_rows_with_both_numbers(classification: Report) -> None:
    (view,) = panels([classification])
    points = {row.row.name: (x, y) for row, x, y in view.points()}
    assert points == {
        "A2Mamba-N": (0.8, 78.7),
        "ConvNeXt-T": (4.5, 82.1),
        "VMamba-T": (4.9, 82.6),
        "VMamba-S": (8.7, 83.6),
    }


def test_measured_speeds_are_a_second_view(sizes: Report) -> None:
    published, measured = panels([sizes])
    assert (published.across, published.measured) == ("flops_224", False)
    assert (measured.across, measured.up, measured.measured) == ("speed_224", "top1_224", True)
    assert [(x, y) for _, x, y in measured.points()] == [(33.25, 78.7)]


def test_fig_1_has_the_three_tasks() -> None:
    reports = [Report(find_table(number), ()) for number in ("II", "IV", "VII", "VIII")]
    assert [(view.report.table.number, view.up) for view in fig_1(reports)] == [
        ("II", "top1"),
        ("VII", "miou"),
        ("IV", "box_ap"),
    ]


def test_families() -> None:
    names = ("A2Mamba-S", "SegMAN-T Encoder", "SegMAN-V2-N", "ConvNeXt-V2-A", "CAFormer-S18", "OCRNet")
    assert [family(name) for name in names] == ["A2Mamba", "SegMAN", "SegMAN-V2", "ConvNeXt-V2", "CAFormer", "OCRNet"]


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_figure_is_written(classification: Report, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"figure.{kind}"
    write_figure(panels([classification]), path)
    begins = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[kind]
    assert path.read_bytes().startswith(begins)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_what_cannot_be_drawn_is_refused(classification: Report, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf"):
        write_figure(panels([classification]), tmp_path / "figure.gif")
    with pytest.raises(ValueError, match="no figure of this table"):
        write_figure(panels([Report(find_table("I"), ())]), tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_takes_its_colors_from_the_page(classification: Report) -> None:
    (view,) = panels([classification])
    drawn = svg(view)
    assert drawn.startswith("<svg")
    assert "var(--a)" in drawn
    assert "var(--ink)" in drawn
    assert "#0101" not in drawn
    assert "#0102" not in drawn
    assert "top-1" in drawn, "text stays text"


def test_a_drawing_is_the_same_every_time(classification: Report) -> None:
    (view,) = panels([classification])
    assert svg(view) == svg(Panel(view.report, view.across, view.up))


class _Reader(HTMLParser):
    """Checks that elements are closed in order, and keeps text and references."""

    VOID = ("meta", "br", "path", "use", "rect", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        named = {name: value or "" for name, value in attrs}
        self.references += [named[name] for name in ("href", "src") if name in named]
        self.ids += [named["id"]] if "id" in named and tag == "section" else []

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page(classification: Report, sizes: Report) -> None:
    text = page([classification, sizes], device="a <new> processor")
    reader = _Reader()
    reader.feed(text)
    assert reader.open == []
    assert {"tII", "tVIII", "fig1", "differences"} <= set(reader.ids)
    outside = [target for target in reader.references if not target.startswith("#")]
    assert outside == ["https://arxiv.org/abs/2507.16624"], "nothing is fetched; one link to the paper"
    assert "<script" not in text
    assert "prefers-color-scheme:dark" in text
    shown = "".join(reader.text)
    for part in ("4.20", "33.25", "a <new> processor", "a2mamba train in1k_nano --paper data.root=DIR", "VMamba-S"):
        assert part in shown
    assert len(re.findall("<svg", text)) == 2


def test_a_page_of_one_table_lists_no_differences(classification: Report) -> None:
    text = page([classification])
    assert 'id="differences"' not in text
    assert "Table II" in text


def test_a_difference_is_listed_once_and_remarks_have_a_column_where_there_are_some(classification: Report) -> None:
    table = find_table("VII")  # two of its columns are MACs at 512
    segman = make_report(replace(table, rows=tuple(row for row in table.rows if row.name == "SegMAN-T")))
    assert len(segman.rows[0].disagreements) == 3
    text = page([classification, segman])
    listed = text[text.index('id="differences"') : text.index('id="tII"')]
    assert listed.count("MACs at 512") == 1
    assert "remark</th>" in page([segman])
    assert "remark</th>" not in page([make_report(find_table("I"))])
