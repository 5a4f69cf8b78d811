"""The tables are what the paper prints, and every row of ours has a network, a command and counts."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path

import pytest

from a2mamba.backbone import list_models
from a2mamba.detection import list_detectors
from a2mamba.paper import find_table, make_report, published_tables, read_results, record_result
from a2mamba.paper.report import Cell, Report, Speed
from a2mamba.paper.results import IMAGES, network_name
from a2mamba.paper.subjects import _OURS, Subject, subject
from a2mamba.paper.tables import decimals
from a2mamba.paper.text import difference_text, number_text
from a2mamba.recipes import find_recipe, has_paper_form, make_run
from a2mamba.recipes.overrides import apply_overrides
from a2mamba.segmentation import list_segmenters

ROWS = {"I": 5, "II": 120, "III": 11, "IV": 44, "V": 41, "VI": 51, "VII": 32, "VIII": 45, "IX": 5, "X": 5}
ROWS |= {"XI": 3, "XII": 6, "XIII": 7}

ABLATIONS = ("IX", "X", "XI", "XII", "XIII")

SUBJECTS = [
    (table.number, row.name, found)
    for table in published_tables().values()
    for row in table.rows
    if (found := subject(table.number, row.name)) is not None
]
OURS = {(number, name) for number, name, found in SUBJECTS if found.ours}


def test_every_table_is_there() -> None:
    assert {number: len(table.rows) for number, table in published_tables().items()} == ROWS


@pytest.mark.parametrize("name", ["IV", "iv", "4", "table4", "Table IV"])
def test_a_table_is_found_by_its_number(name: str) -> None:
    assert find_table(name).number == "IV"


def test_an_unknown_table_is_refused() -> None:
    for name in ("XIV", "0", "table", ""):
        with pytest.raises(ValueError, match=r"no table .*I, II, III"):
            find_table(name)


def test_spot_values() -> None:
    """Read off the paper once more, one a table."""
    printed = {
        ("II", "A2Mamba-S", "top1"): 84.7,
        ("III", "A2Mamba-L", "flops"): 54,
        ("IV", "RMT-B", "box_ap"): 52.2,
        ("V", "A2Mamba-L", "mask_ap"): 48.1,
        ("VI", "A2Mamba-B", "miou_ms"): 53.9,
        ("VII", "SegMAN-V2-S", "miou_cityscapes"): 83.8,
        ("VIII", "A2Mamba-L", "top1_1024"): 75.4,
        ("VIII", "A2Mamba-N", "speed_224"): 2486,
        ("XII", "LASS", "speed"): 139,
        ("XIII", "MASS", "miou"): 49.5,
    }
    for (number, name, key), value in printed.items():
        table = find_table(number)
        (row,) = [row for row in table.rows if row.name == name]
        assert table.value(row, key) == value, (number, name, key)


def test_rows_and_remarks_fit_their_tables() -> None:
    """A remark on a row that does not exist would never be seen."""
    raw = json.loads(resources.files("a2mamba.paper").joinpath("tables.json").read_text())
    for number, table in published_tables().items():
        keys = [column.key for column in table.columns]
        assert len(set(keys)) == len(keys), number
        names = {row.name for row in table.rows}
        assert raw[number]["row_remarks"].keys() <= names, number
        assert _OURS.get(number, {}).keys() <= names, number
        for column in table.columns:
            assert (column.metric is not None) == (column.kind == "accuracy"), (number, column.key)
            assert column.data is None or column.data in IMAGES


def test_numbers_in_a_table_have_the_type_of_their_column() -> None:
    for number, table in published_tables().items():
        for row in table.rows:
            for column, value in zip(table.columns, row.values, strict=True):
                allowed = (tuple,) if column.kind == "layout" else (int, float, type(None))
                assert isinstance(value, allowed), (number, row.name, column.key)
                if column.unit == "%" and value is not None:
                    assert isinstance(value, (int, float))
                    assert 15 < value < 90, (number, row.name, column.key)


def test_every_row_of_ours_has_a_network_and_commands() -> None:
    known = {"classification": list_models(), "segmentation": list_segmenters(), "detection": list_detectors()}
    ours = [(number, name, found) for number, name, found in SUBJECTS if found.ours]
    assert len(ours) > 30
    for number, name, found in ours:
        assert found.model in known[found.task] or number in ABLATIONS, (number, name)
        assert found.commands, (number, name)
        for column in find_table(number).columns:
            if column.kind == "accuracy":
                assert column.data in {run.data for run in found.runs}, (number, name, column.key)


def test_every_row_of_an_ablation_is_known() -> None:
    for number in ABLATIONS:
        for row in find_table(number).rows:
            assert (number, row.name) in OURS


def test_rows_that_carry_our_names_are_all_known() -> None:
    for number in ("I", "II", "III", "IV", "V", "VI", "VII", "VIII"):
        for row in find_table(number).rows:
            if row.name.startswith(("A2Mamba", "SegMAN")):
                assert (number, row.name) in OURS


COMMANDS = sorted({command for _, _, found in SUBJECTS for command in found.commands})


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str, tmp_path: Path) -> None:
    """It parses, its recipe exists and takes its key=value words."""
    from a2mamba.cli.main import _parse, _parser

    words = shlex.split(command)
    assert words[0] == "a2mamba"
    arguments = _parse(_parser(words[1:]), words[1:])
    recipe = arguments.recipe if arguments.command == "train" else arguments.overrides.pop(0)
    find_recipe(recipe)
    paper = getattr(arguments, "paper", False)
    assert not paper or has_paper_form(recipe)
    run = make_run(recipe, paper=paper)
    changed = apply_overrides(run, [word.replace("DIR", str(tmp_path)) for word in arguments.overrides])
    assert changed.data.root == str(tmp_path)


def test_runs_train_the_model_they_say() -> None:
    for number, name, found in SUBJECTS:
        for run in found.runs:
            config = make_run(run.recipe, paper="--paper" in run.words)
            words = [word for word in run.words if "=" in word and "checkpoint" not in word]
            assert network_name(apply_overrides(config, words).model) == run.model, (number, name)


@pytest.mark.parametrize(
    ("published", "ours", "agrees"),
    [
        (4, 4.195, True),
        (15, 15.6, False),
        (10.7, 11.45, False),
        (1027, 1030.2, True),
        (2.7, 2.7121, True),
        (0.7, 0.649, False),
    ],
)
def test_counts_agree_within_what_is_printed_or_a_percent(published: float, ours: float, agrees: bool) -> None:
    column = find_table("II").columns[0]
    assert Cell(column, published, ours, "computed").agrees is agrees
    assert Cell(column, published, ours, "measured").agrees is None
    assert Cell(column, published).agrees is None


def test_digits_and_words_of_numbers() -> None:
    assert [decimals(value) for value in (28, 4.0, 83.15)] == [0, 1, 2]
    shown = [number_text(value) for value in (None, 4, 4.0, 15.365506, 105.95, 1030.21, 2486, (2, 2, 8, 2))]
    assert shown == ["\u2013", "4", "4.0", "15.37", "106.0", "1,030", "2,486", "2 2 8 2"]
    _, flops, top1 = find_table("II").columns
    assert difference_text(Cell(flops, 10.0, 11.0, "computed")) == "+10.0 %"
    assert difference_text(Cell(top1, 83.0, 82.5, "recorded")) == "-0.50 points"
    assert difference_text(Cell(top1, 83.0)) == ""


def _only(number: str, *names: str) -> Report:
    table = find_table(number)
    return make_report(replace(table, rows=tuple(row for row in table.rows if row.name in names)))


@pytest.mark.parametrize(
    ("number", "name", "counted"),
    [
        ("II", "A2Mamba-N", {"parameters": 4.195052, "flops": 0.825}),
        ("VIII", "SegMAN-T Encoder", {"parameters": 3.506014, "flops_224": 0.65}),
        ("VII", "SegMAN-T", {"parameters": 6.40, "flops": 6.06, "flops_cityscapes": 50.7}),
        ("IV", "A2Mamba-S", {"parameters": 49.29, "flops": 283.4}),
        ("VI", "A2Mamba-S", {"parameters": 59.61, "flops": 958.6}),
    ],
)
def test_counts_are_those_worked_out_by_hand(number: str, name: str, counted: dict[str, float]) -> None:
    """One row a task; the rest is in the slow form."""
    (row,) = _only(number, name).rows
    cells = {cell.column.key: cell for cell in row.cells}
    for key, value in counted.items():
        assert cells[key].ours == pytest.approx(value, rel=0.01)
        assert cells[key].origin == "computed"


@pytest.mark.slow
def test_all_counts_agree_or_are_remarked() -> None:
    """Every network of ours and of timm: what differs from the paper says why."""
    checked = 0
    for table in published_tables().values():
        for row in make_report(table).rows:
            checked += sum(cell.origin == "computed" for cell in row.cells)
            if row.disagreements:
                assert row.remarks, (table.number, row.row.name, row.disagreements)
    assert checked >= 350


def test_a_baseline_of_timm_is_counted_beside_ours() -> None:
    (row,) = _only("II", "ConvNeXt-T").rows
    assert row.subject == Subject("convnext_tiny", ours=False)
    assert row.cells[0].ours == pytest.approx(28.589128)
    assert [cell.agrees for cell in row.cells] == [True, True, None]
    assert row.commands == []


@pytest.mark.parametrize(
    ("number", "name"), [("IV", "Swin-T"), ("IV", "ConvNeXt-T"), ("V", "RDNet-T"), ("VI", "ConvNeXt-T")]
)
def test_systems_on_backbones_of_timm_have_the_published_counts(number: str, name: str) -> None:
    """Detectors and UperNet on other backbones: that their counts are met too speaks for how ours are counted."""
    (row,) = _only(number, name).rows
    cells = {cell.column.key: cell for cell in row.cells}
    assert cells["parameters"].agrees
    assert cells["flops"].agrees
    assert not row.ours
    assert row.commands == []


def test_a_count_that_the_paper_does_not_print_is_no_disagreement() -> None:
    (row,) = _only("V", "CAFormer-S18").rows
    cells = {cell.column.key: cell for cell in row.cells}
    assert cells["parameters"].published is None
    assert cells["parameters"].ours == pytest.approx(81.2, abs=0.1)
    assert [cell.column.key for cell in row.disagreements] == ["flops"]
    assert row.remarks


def test_a_network_that_nobody_has_shows_the_paper_alone() -> None:
    (row,) = _only("II", "VMamba-T").rows
    assert (row.subject, row.ours, row.commands) == (None, False, [])
    assert [cell.ours for cell in row.cells] == [None] * 3


def test_recorded_results_stand_beside_the_published_ones(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "results.jsonl"
    for top1, size, images in ((82.0, 224, 50_000), (82.9, 224, 50_000), (81.1, 512, 50_000), (99.0, 224, 359)):
        record_result(
            file, recipe="in1k_nano", model="a2mamba_nano", metrics={"top1": top1}, images=images, image_size=size
        )
    record_result(file, recipe="in1k_tiny", model="a2mamba_tiny", metrics={"top1": 50.0}, images=50_000, image_size=224)
    results = read_results(file)
    assert len(results) == 5
    assert results[0].recorded is not None
    table = find_table("VIII")
    nano = replace(table, rows=tuple(row for row in table.rows if row.name == "A2Mamba-N"))
    (row,) = make_report(nano, results=results).rows
    cells = {cell.column.key: cell for cell in row.cells}
    assert (cells["top1_224"].ours, cells["top1_224"].origin) == (82.9, "recorded"), "the newest of those that fit"
    assert cells["top1_512"].ours == 81.1
    assert cells["top1_1024"].ours is None
    assert any("359" in remark for remark in row.remarks), "a part of the data is no result"


def test_results_of_several_scales_have_their_own_column(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    for miou, multi_scale in ((51.0, False), (52.5, True)):
        record_result(
            file,
            recipe="upernet_small_ade20k",
            model="upernet_a2mamba_small",
            metrics={"miou": miou},
            images=2000,
            multi_scale=multi_scale,
        )
    table = find_table("VI")
    small = replace(table, rows=tuple(row for row in table.rows if row.name == "A2Mamba-S"))
    (row,) = make_report(small, results=read_results(file)).rows
    assert [cell.ours for cell in row.cells[2:]] == [51.0, 52.5]


def test_a_file_of_results_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    record_result(file, recipe="r", model="m", metrics={"top1": 1.0}, images=1)
    good = file.read_text()
    record = json.loads(good)
    bad = ["{", "[]", "{}", json.dumps(record | {"images": "many"}), json.dumps(record | {"extra": 1})]
    bad += [json.dumps(record | {"metrics": {"top1": value}}) for value in ("high", True, float("nan"))]
    for line in bad:
        file.write_text(f"{good}{line}\n")
        with pytest.raises(ValueError, match=r"results\.jsonl, line 2"):
            read_results(file)


def test_a_result_without_numbers_is_not_recorded(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    for metrics, images in (({}, 5), ({"top1": float("nan")}, 5), ({"top1": 1.0}, 0)):
        with pytest.raises(ValueError, match="at least one image"):
            record_result(file, recipe="r", model="m", metrics=metrics, images=images)
    assert not file.exists()


def test_measured_speeds_stand_beside_the_published_ones() -> None:
    table = find_table("VIII")
    nano = replace(table, rows=tuple(row for row in table.rows if row.name == "A2Mamba-N"))
    (row,) = make_report(nano, measurements={("a2mamba_nano", 224): Speed(12.5, 2, 100.0)}).rows
    cells = {cell.column.key: cell for cell in row.cells}
    assert (cells["speed_224"].ours, cells["speed_224"].origin) == (12.5, "measured")
    assert cells["memory_224"].ours == 100.0
    assert cells["speed_224"].difference is None, "another device"
    assert cells["speed_512"].ours is None


def test_a_report_is_json() -> None:
    found = _only("II", "A2Mamba-N", "VMamba-T").to_dict()
    assert json.loads(json.dumps(found)) == found
    nano = next(row for row in found["rows"] if row["name"] == "A2Mamba-N")
    assert nano["cells"]["parameters"] | {"difference": 0} == {
        "published": 4,
        "ours": 4.195052,
        "difference": 0,
        "origin": "computed",
        "agrees": True,
    }
    assert nano["commands"] == ["a2mamba train in1k_nano --paper data.root=DIR"]
    assert {field.name for field in fields(Cell)} <= {"column", "published", "ours", "origin"}
