"""`a2mamba paper`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from a2mamba.analysis.runners import Setting
from a2mamba.analysis.throughput import compare
from a2mamba.paper import find_table, published_tables, read_results, record_result
from a2mamba.paper.measuring import measure
from a2mamba.paper.tables import Table

from .helpers import Trained, content, in_process


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the smallest networks in the tables: the commands are the same, and take seconds."""
    keep = ("A2Mamba-N", "PVTv2-B0", "VMamba-T", "SegMAN-V2-N", "Swin-T", "A2Mamba-S")

    def shortened(table: Table) -> Table:
        names = keep[:2] if table.number == "VIII" else keep
        return replace(table, rows=tuple(row for row in table.rows if row.name in names))

    short = {number: shortened(table) for number, table in published_tables().items()}
    monkeypatch.setattr("a2mamba.paper.tables.published_tables", lambda: short)


def test_without_a_table_the_tables_are_listed() -> None:
    result = in_process("paper")
    assert (result.status, result.err) == (0, "")
    assert "From LASS to MASS" in result.out
    listed = in_process("paper", "--json").json["tables"]
    assert [entry["table"] for entry in listed] == list(published_tables())
    assert listed[1]["rows"] == 120


def test_a_table_for_people(few_rows: None) -> None:
    result = in_process("paper", "2")
    assert result.status == 0
    for part in ("Table II", "4 \u2192 4.20", "VMamba-T", "a2mamba train in1k_nano --paper data.root=DIR"):
        assert part in result.out
    assert result.err == "counting Table II\n"


def test_a_wide_table_comes_in_parts(few_rows: None) -> None:
    result = in_process("paper", "VIII")
    assert result.status == 0
    assert "(part 3)" in result.out
    assert all(len(line) <= 160 for line in result.out.splitlines() if line.startswith("\u2502"))


def test_a_table_for_programs_with_recorded_results(few_rows: None, tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    record_result(file, recipe="in1k_nano", model="a2mamba_nano", metrics={"top1": 78.1}, images=50_000, image_size=224)
    (table,) = in_process("paper", "II", "--json", "--results", file).json["tables"]
    (row,) = [row for row in table["rows"] if row["name"] == "A2Mamba-N"]
    assert row["cells"]["top1"]["ours"] == 78.1
    assert row["cells"]["top1"]["difference"] == pytest.approx(-0.6)


def test_page_and_figure(few_rows: None, workplace: Path) -> None:
    result = in_process("paper", "fig1", "--html", "page.html", "--plot", "fig1.png")
    assert (result.status, result.out) == (0, "")
    assert {Path(name).name for name in content(workplace)} == {"page.html", "fig1.png"}
    text = (workplace / "page.html").read_text()
    assert all(f'id="t{number}"' in text for number in ("II", "VII", "IV"))


def test_mistakes_are_one_line(workplace: Path) -> None:
    in_process("paper", "XIV").refused("no table 'XIV'", "XIII")
    in_process("paper", "--html", "page.html").refused("which table")
    in_process("paper", "II", "--plot", "x.gif").refused("--plot must end in")
    in_process("paper", "II", "--sizes", "224").refused("--measure")
    in_process("paper", "II", "--measure", "--rounds", "0").refused("--rounds")
    in_process("paper", "II", "--measure", "--device", "cpu").refused("no speeds", "VIII to XIII")
    in_process("paper", "VIII", "--measure", "--sizes", "99", "--device", "cpu").refused("224, 512, 1024, not at 99")
    in_process("paper", "II", "--results", "missing.jsonl").refused("missing.jsonl")
    (workplace / "broken.jsonl").write_text("no result\n")
    in_process("paper", "II", "--results", "broken.jsonl").refused("broken.jsonl, line 1")


def test_measuring_times_the_networks_of_a_table_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement itself is that of `a2mamba bench`; here two small networks stand for the table."""
    table = find_table("VIII")
    few = replace(
        table,
        rows=tuple(row for row in table.rows if row.name == "A2Mamba-N"),
        columns=tuple(
            replace(column, size=(64, 64)) if column.size == (224, 224) else column for column in table.columns
        ),
    )
    monkeypatch.setattr("a2mamba.paper.measuring.operators_disagree", lambda device: None)
    monkeypatch.setattr("a2mamba.paper.measuring.compare", partial(compare, together=True))
    found = measure(few, device="cpu", sizes=[64], rounds=1)
    assert set(found) == {("a2mamba_nano", 64)}
    speed = found["a2mamba_nano", 64]
    assert speed.images_per_second > 0
    assert speed.batch == 2
    assert speed.peak_memory_mb is not None
    assert speed.peak_memory_mb > 0


def test_segmentation_networks_are_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    table = find_table("XIII")
    few = replace(
        table,
        rows=tuple(row for row in table.rows if row.name in ("MMSCopE", "MASS")),
        columns=tuple(replace(column, size=(64, 64)) if column.size else column for column in table.columns),
    )
    monkeypatch.setattr("a2mamba.paper.measuring.operators_disagree", lambda device: None)
    monkeypatch.setattr("a2mamba.analysis.throughput.peak_memory", lambda name, setting: 1.0)
    monkeypatch.setattr("a2mamba.paper.measuring.compare", partial(compare, together=True))
    found = measure(few, device="cpu", batch=1, rounds=1)
    assert set(found) == {("segman_tiny on a2mamba_tiny", 64), ("roadmap_mass", 64)}
    with pytest.raises(ValueError, match="unknown model 'roadmap'"):
        compare(["roadmap"], Setting(64, 1), together=True)


def test_no_speed_where_an_operator_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("a2mamba.paper.measuring.operators_disagree", lambda device: "the scan is wrong")
    with pytest.raises(ValueError, match="no speed is reported: the scan is wrong"):
        measure(find_table("VIII"), device="cpu", sizes=[224])


def test_an_evaluation_is_recorded(trained: Trained, tmp_path: Path) -> None:
    """Twice, so that the second does not overwrite the first; what is recorded is what was printed."""
    file = tmp_path / "results.jsonl"
    for _ in range(2):
        result = in_process("eval", "--checkpoint", trained.best, "--json", "--record", file)
        assert result.status == 0
    first, second = read_results(file)
    assert (first.recipe, first.model, first.image_size) == ("digits", "a2mamba_test", 32)
    assert first.metrics["top1"] == second.metrics["top1"] == result.json["top1"]
    assert first.images == result.json["images"]
    assert first.checkpoint == str(trained.best)
