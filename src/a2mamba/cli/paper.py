"""`a2mamba paper [TABLE]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from a2mamba.paper import Report, Table
    from a2mamba.paper.receptive_fields import Fig5
    from a2mamba.paper.report import Cell, Measurements, ReportRow
    from a2mamba.paper.tables import Column

_WIDE = 8
"""A table of more columns is printed in parts, one for each image size."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Without TABLE, the tables are listed. fig1 is Tables II, VII and IV, which Fig. 1 draws. A number of ours\n"
        "follows the published one: counted now, measured now (--measure), or of your own runs (--results).\n"
        "fig5 computes effective receptive fields of A2Mamba-T, ConvNeXt-T and Swin-T, by --images with --pretrained\n"
        "weights; without these, by crops of scikit-learn's photographs with random weights. `all --html` has it too.\n"
        "Examples: a2mamba paper II\n"
        "          a2mamba paper fig1 --plot fig1.png\n"
        "          a2mamba paper fig5 --images photos --pretrained --plot fig5.png\n"
        "          a2mamba paper VIII --measure --sizes 224 --batch 8\n"
        "          a2mamba paper all --results runs/results.jsonl --html paper.html"
    )
    parser.add_argument("table", nargs="?", metavar="TABLE", help="I to XIII (or 1 to 13), fig1, fig5, or all")
    parser.add_argument("--results", type=Path, metavar="FILE", help="results of your own evaluations, JSON lines")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with tables and figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw accuracy against cost: .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--images", type=Path, metavar="PATH", help="fig5: an image, a folder or a glob")
    parser.add_argument("--pretrained", action="store_true", help="fig5: released weights, downloaded once")
    parser.add_argument("--measure", action="store_true", help="time the networks of tables with speeds, timm's too")
    parser.add_argument(
        "--sizes", nargs="+", type=int, metavar="N", help="--measure: image sides (default the table's)"
    )
    parser.add_argument("--batch", type=int, help="--measure: images in a batch (default the paper's; 2 on a CPU)")
    parser.add_argument("--rounds", type=int, default=3, help="--measure: times that each network is timed (default 3)")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Count, look up and measure; tables on stdout, what is being done on stderr."""
    from a2mamba.paper import make_report, read_results

    _check(arguments)
    if arguments.table is None:
        return _list(arguments)
    if _is_fig_5(arguments.table):
        return _show_fig_5(arguments)
    chosen = _chosen(arguments.table)
    results = [] if arguments.results is None else read_results(arguments.results)
    device = choose_device(arguments.device) if arguments.measure else None
    measurements = {} if device is None else _measure(chosen, device, arguments)
    reports = [make_report(table, results=results, measurements=measurements, progress=_Progress()) for table in chosen]
    words = None if device is None else _device_words(device)
    _write(reports, words, arguments)
    if arguments.json:
        print_json({"tables": [found.to_dict() for found in reports], "device": words})
    elif arguments.html is None and arguments.plot is None:
        for found in reports:
            _show(found)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what makes no sense before anything is counted or measured.

    Raises:
        ValueError: for options that do not fit; one line.
    """
    for name in ("batch", "rounds"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise ValueError(f"--{name} must be at least 1, got {number}")
    if arguments.plot is not None and arguments.plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--plot must end in .png, .svg or .pdf, got {arguments.plot}")
    has_fig_5 = _is_fig_5(arguments.table) or _is_all(arguments.table)
    if (arguments.images or arguments.pretrained) and not has_fig_5:
        raise ValueError("--images and --pretrained are for fig5, and for all")
    if _is_fig_5(arguments.table):
        if arguments.measure or arguments.results or arguments.html:
            raise ValueError("--measure, --results and --html are for tables; `all --html` shows fig5 too")
        if arguments.plot is not None and arguments.plot.suffix.lower() != ".png":
            raise ValueError(f"--plot of fig5 must end in .png, got {arguments.plot}")
    if not arguments.measure and (arguments.sizes or arguments.batch):
        raise ValueError("--sizes and --batch are for --measure")
    if arguments.table is None and (arguments.html or arguments.plot or arguments.measure or arguments.results):
        raise ValueError("which table? give a number from I to XIII, fig1, fig5, or all")


def _is_fig_5(table: str | None) -> bool:
    return table is not None and table.lower() in ("fig5", "figure5")


def _is_all(table: str | None) -> bool:
    return table is not None and table.lower() == "all"


def _fig_5(arguments: argparse.Namespace) -> Fig5:
    from a2mamba.paper.receptive_fields import fig_5
    from a2mamba.predictor import find_images

    files = [] if arguments.images is None else find_images(arguments.images)
    return fig_5(files, pretrained=arguments.pretrained, device=choose_device(arguments.device), progress=say)


def _show_fig_5(arguments: argparse.Namespace) -> int:
    """Draw Fig. 5; the squares that hold shares of each field on stdout."""
    from a2mamba.visualize import write_png

    figure = _fig_5(arguments)
    if arguments.plot is not None:
        write_png(figure.drawing().image, arguments.plot)
        say(f"the figure is in {arguments.plot}")
    sides = figure.sides()
    if arguments.json:
        print_json({"figure": "5", "images": figure.images, "weights": figure.weights, "sides": sides})
        return 0
    shares = list(next(iter(sides.values())))
    heads = ["network", *(f"{100 * float(share):g} %" for share in shares)]
    title = "Fig. 5: side in pixels of the square in the middle that holds so much of the effective receptive field"
    print_table(heads, [[name, *(str(side) for side in found.values())] for name, found in sides.items()], title=title)
    print(f"Averaged over {figure.images}, {figure.weights}, 224 x 224.")
    return 0


def _list(arguments: argparse.Namespace) -> int:
    from a2mamba.paper import published_tables

    known = published_tables().values()
    if arguments.json:
        print_json({"tables": [{"table": t.number, "title": t.title, "rows": len(t.rows)} for t in known]})
        return 0
    print_table(("table", "what it shows", "rows"), [(table.number, table.title, len(table.rows)) for table in known])
    return 0


def _chosen(name: str) -> list[Table]:
    from a2mamba.paper import find_table, published_tables
    from a2mamba.paper.figures import FIG_1

    if _is_all(name):
        return list(published_tables().values())
    if name.lower() in ("fig1", "figure1"):
        return [find_table(number) for number, _, _ in FIG_1]
    return [find_table(name)]


def _measure(chosen: Sequence[Table], device: str, arguments: argparse.Namespace) -> Measurements:
    """Measure the tables that have speeds; one that was asked for alone must have them."""
    from a2mamba.paper.measuring import measure

    timed = [table for table in chosen if any(column.kind == "speed" for column in table.columns)]
    found: dict = {}
    for table in timed or chosen:
        found |= measure(
            table,
            device=device,
            sizes=arguments.sizes,
            batch=arguments.batch,
            rounds=arguments.rounds,
            progress=say,
        )
    return found


def _device_words(device: str) -> str:
    from a2mamba.analysis.environment import environment

    return str(environment(device)["device"])


class _Progress:
    """Says which table is being counted, once a table."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, text: str) -> None:
        table = text.split(":")[0]
        if table != self.last:
            self.last = table
            say(f"counting {table}")


def _write(reports: Sequence[Report], device: str | None, arguments: argparse.Namespace) -> None:
    from a2mamba.files import replace_text

    if arguments.plot is not None:
        from a2mamba.paper.figures import fig_1, panels, write_figure

        write_figure((fig_1 if len(reports) > 1 else panels)(reports), arguments.plot)
        say(f"the figure is in {arguments.plot}")
    if arguments.html is not None:
        from a2mamba.paper.page import page

        figure = _fig_5(arguments) if _is_all(arguments.table) else None
        replace_text(arguments.html, page(reports, device=device, fig_5=figure))
        say(f"the page is {arguments.html}")


def _show(found: Report) -> None:
    columns = found.table.columns
    sizes = dict.fromkeys(column.size for column in columns if column.size is not None)
    parts: list[Sequence[Column]] = [columns]
    if len(columns) > _WIDE:
        parts = [[column for column in columns if column.size in (None, size)] for size in sizes]
    typed = any(row.row.type for row in found.rows)
    for number, part in enumerate(parts):
        heads = ["network", *(["type"] if typed else []), *(f"{c.label}, {c.unit}".removesuffix(", ") for c in part)]
        rows = [_words(row, part, typed) for row in found.rows]
        title = f"Table {found.table.number}: {found.table.title}" + (f" (part {number + 1})" if number else "")
        print_table(heads, rows, title=title)
    print(found.table.note)
    for remark in found.table.remarks:
        print(f"- {remark}")
    for row in found.rows:
        for remark in row.remarks:
            print(f"- {row.row.name}: {remark}")
    for row in found.rows:
        for command in row.commands:
            print(f"  {row.row.name}: {command}")


def _words(row: ReportRow, columns: Sequence[Column], typed: bool) -> list[str]:
    keys = [column.key for column in columns]
    cells = [_cell(cell) for cell in row.cells if cell.column.key in keys]
    return [row.row.name, *([row.row.type or ""] if typed else []), *cells]


def _cell(cell: Cell) -> str:
    """Published, then ours; by how much they differ where they do not agree."""
    from a2mamba.paper.text import difference_text, number_text

    published = number_text(cell.published)
    if cell.ours is None:
        return published
    if cell.column.kind == "layout":
        return published if cell.agrees else f"{published} \N{RIGHTWARDS ARROW} {number_text(cell.ours)}"
    difference = "" if cell.agrees or cell.difference is None else f" ({difference_text(cell)})"
    return f"{published} \N{RIGHTWARDS ARROW} {number_text(cell.ours)}{difference}"
