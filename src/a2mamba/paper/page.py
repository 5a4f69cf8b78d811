"""The tables and the figures as one HTML page: no network, scripts or further files."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import groupby

from a2mamba.paper.figures import fig_1, panels, svg
from a2mamba.paper.receptive_fields import Fig5
from a2mamba.paper.report import Cell, Report, ReportRow
from a2mamba.paper.tables import Column
from a2mamba.paper.text import difference_text, number_text

PAPER = "https://arxiv.org/abs/2507.16624"


def page(reports: Sequence[Report], *, device: str | None = None, fig_5: Fig5 | None = None) -> str:
    """Return the page.

    Args:
        reports: the tables, in order.
        device: in words, of measured speeds; None where nothing was measured.
        fig_5: to be shown too.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    several = len(reports) > 1
    title = "A2Mamba, table by table" if several else f"A2Mamba, Table {reports[0].table.number}"
    sections = [_header(title, reports, device)]
    views = fig_1(reports) if several else panels(reports)
    if views:
        figures = "".join(
            f"<figure><figcaption>{_caption(view.report)}</figcaption>{svg(view)}</figure>" for view in views
        )
        heading = "Fig. 1: accuracy against cost" if several else "Accuracy against cost"
        sections.append(f'<section id="fig1"><h2>{heading}</h2><div class="plots">{figures}</div></section>')
    if fig_5 is not None:
        sections.append(_fig_5(fig_5))
    if several:
        sections.append(_disagreements(reports))
    sections += map(_table, reports)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body><main>{''.join(sections)}</main></body></html>\n"
    )


def _fig_5(figure: Fig5) -> str:
    """The receptive fields and the sides of the squares that hold their shares."""
    drawing = figure.drawing()
    file = io.BytesIO()
    drawing.image.save(file, format="PNG")
    image = base64.b64encode(file.getvalue()).decode()
    random = (
        "<p>Random weights show designs before they have learned anything: ConvNeXt's blocks, whose scales begin at "
        "one millionth, do nothing yet. <code>a2mamba paper fig5 --pretrained --images DIR</code> shows trained ones."
        "</p>"
    )
    note = "" if figure.pretrained else random
    return (
        f'<section id="fig5"><h2>Fig. 5: effective receptive fields</h2><p>{escape(drawing.caption)}</p>{note}'
        f'<figure><img src="data:image/png;base64,{image}" alt="{escape(drawing.title)}"></figure></section>'
    )


def _caption(report: Report) -> str:
    return f"Table {report.table.number}: {escape(report.table.title)}"


def _header(title: str, reports: Sequence[Report], device: str | None) -> str:
    ours = [cell for report in reports for row in report.rows if row.ours for cell in row.cells]
    timm = [cell for report in reports for row in report.rows if not row.ours for cell in row.cells]
    cards = []
    for name, cells in (("counts of our networks", ours), ("counts of timm's networks", timm)):
        computed = [cell for cell in cells if cell.origin == "computed" and cell.agrees is not None]
        if computed:
            agreeing = sum(bool(cell.agrees) for cell in computed)
            cards.append((f"{agreeing} of {len(computed)}", f"{name} agree with the paper"))
    recorded = sum(cell.origin == "recorded" for cell in ours)
    cards.append((str(recorded), "results of your own runs" if recorded else "results recorded yet"))
    measured = sum(cell.origin == "measured" and cell.column.kind == "speed" for cell in ours + timm)
    if device is not None:
        cards.append((str(measured), f"speeds measured on {escape(device)}"))
    links = "".join(f'<a href="#t{report.table.number}">{report.table.number}</a>' for report in reports)
    return (
        f"<header><h1>{title}</h1>"
        f'<p>Every table of <a href="{PAPER}">Attention-augmented State Space Models for Visual Recognition</a>: what '
        "is published, and below it what this package counts now, what your own runs have recorded, and what was "
        "measured on this machine. Counts agree where they round to the printed number or differ by less than 1 %.</p>"
        f'<dl class="cards">{"".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for value, name in cards)}</dl>'
        f'<nav aria-label="Tables">Tables {links}</nav></header>'
    )


def _disagreements(reports: Sequence[Report]) -> str:
    rows = [(report, row) for report in reports for row in report.rows if row.disagreements]
    lines = "".join(
        f'<tr><td><a href="#t{report.table.number}">{report.table.number}</a></td><th scope="row">'
        f"{escape(row.row.name)}</th><td>{'<br>'.join(dict.fromkeys(map(_difference, row.disagreements)))}</td>"
        f"<td>{escape(' '.join(row.remarks))}</td></tr>"
        for report, row in rows
    )
    return (
        '<section id="differences"><h2>Where we and the paper differ</h2><div class="scroll"><table class="list">'
        "<thead><tr><th>table</th><th>row</th><th>published, and ours</th><th>why</th></tr></thead>"
        f"<tbody>{lines}</tbody></table></div></section>"
    )


def _difference(cell: Cell) -> str:
    return (
        f'<span class="nowrap">{escape(cell.column.label)}: {number_text(cell.published)} '
        f'<b class="off">{number_text(cell.ours)}</b> {cell.column.unit} ({difference_text(cell)})</span>'
    )


def _table(report: Report) -> str:
    table = report.table
    typed = any(row.row.type for row in report.rows)
    remarked = any(row.remarks for row in report.rows)
    head = "".join(f'<th scope="col">{_heading(column)}</th>' for column in table.columns)
    body = "".join(
        f"<tbody>{''.join(_row(row, typed=typed, remarked=remarked) for row in rows)}</tbody>"
        for _, rows in groupby(report.rows, key=lambda row: row.row.group)
    )
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in table.remarks)
    commands = "".join(_commands(row) for row in report.rows if row.commands)
    heads = ["network", *(["type"] if typed else [])]
    before = "".join(f'<th scope="col">{head}</th>' for head in heads)
    after = '<th scope="col">remark</th>' if remarked else ""
    parts = [
        f'<section id="t{table.number}"><h2>Table {table.number}</h2><div class="scroll"><table class="numbers">',
        f"<caption><b>{escape(table.title)}.</b> {escape(table.note)}</caption>",
        f"<thead><tr>{before}{head}{after}</tr></thead>{body}</table></div>",
        f'<ul class="remarks">{remarks}</ul>' if remarks else "",
        f"<details><summary>Commands that train and evaluate the rows</summary><dl>{commands}</dl></details>"
        if commands
        else "",
        "</section>",
    ]
    return "".join(parts)


def _heading(column: Column) -> str:
    label = column.label.replace("-", "\N{NON-BREAKING HYPHEN}")
    return escape(label) + (f"<small>{column.unit}</small>" if column.unit else "")


def _row(row: ReportRow, *, typed: bool, remarked: bool) -> str:
    kind = f"<td>{row.row.type or ''}</td>" if typed else ""
    name = f'<th scope="row">{escape(row.row.name)}</th>'
    cells = "".join(_cell(cell) for cell in row.cells)
    remark = f'<td class="remark">{escape(" ".join(row.remarks))}</td>' if remarked else ""
    return f"<tr class='{'ours' if row.ours else 'other'}'>{name}{kind}{cells}{remark}</tr>"


def _cell(cell: Cell) -> str:
    if cell.ours is None:
        return f"<td>{number_text(cell.published)}</td>"
    if cell.column.kind == "layout":
        shown = number_text(cell.ours) if not cell.agrees else "the same"
    else:
        shown = number_text(cell.ours)
    style = {True: "same", False: "off", None: "here"}[cell.agrees]
    hint = {"computed": "counted now", "recorded": "your own run", "measured": "measured here", None: ""}[cell.origin]
    difference = difference_text(cell)
    title = f"{hint}, {difference}" if difference else hint
    return f'<td>{number_text(cell.published)}<span class="{style}" title="{escape(title)}">{shown}</span></td>'


def _commands(row: ReportRow) -> str:
    lines = "".join(f"<dd><code>{escape(command)}</code></dd>" for command in row.commands)
    return f"<dt>{escape(row.row.name)}</dt>{lines}"


# Blue and vermilion stay apart for every common form of color blindness.
_STYLE = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#1b1f24;--soft:#59626d;--rule:#dcdfe4;--mark:#eaf3fa;
--a:#0072b2;--b:#c4520a;--c:#0b6b3f;--d:#8e5aa8;--e:#a8780b;--f:#7a3b3b;--g:#4a5bb5}
@media (prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2126;--ink:#e8eaed;--soft:#a3abb5;--rule:#343a42;
--mark:#1c2c38;--a:#5bb8f0;--b:#f0a04b;--c:#6fd6a0;--d:#c9a0de;--e:#e0c060;--f:#e59a9a;--g:#a0aef5}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1440px;margin:0 auto;padding:28px 20px 40px}
header,section{margin-bottom:18px;background:var(--card);border:1px solid var(--rule);border-radius:12px;
padding:22px 26px}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .3em}h2{font-size:1.15rem;margin:0 0 .7em}
p{margin:.5em 0;max-width:84ch}a{color:var(--a)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;margin:18px 0}
.cards div{border-left:3px solid var(--a);padding:1px 0 1px 12px;display:flex;flex-direction:column-reverse;
justify-content:flex-end}
.cards dt{color:var(--soft);font-size:.88rem;line-height:1.3}.cards dd{margin:0;font-size:1.35rem;font-weight:600}
nav{color:var(--soft)}nav a{display:inline-block;min-width:2.1em;margin:2px 0 2px 6px;padding:2px 8px;
text-align:center;text-decoration:none;border:1px solid var(--rule);border-radius:6px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,340px),1fr));gap:22px}
figure{margin:0;min-width:0}.plots figure{display:flex;flex-direction:column;justify-content:space-between}
figcaption{font-weight:600;font-size:.92rem;margin-bottom:4px}
figure svg{width:100%;height:auto;display:block}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding-bottom:10px;max-width:100ch}caption b{color:var(--ink)}
th{text-align:left;font-weight:600}td,th{padding:4px 14px 4px 0;vertical-align:top}
thead th{border-bottom:1px solid var(--ink);font-size:.88rem;line-height:1.25;vertical-align:bottom}
thead small{display:block;color:var(--soft);font-weight:400}
.numbers tbody{border-bottom:1px solid var(--rule)}
.numbers tbody th{font-weight:400;white-space:nowrap;padding-left:6px}
.numbers td{white-space:nowrap}.numbers .remark{white-space:normal;min-width:230px;color:var(--soft);font-size:.88rem}
.numbers td span{display:block;font-size:.84rem;line-height:1.25}
.same{color:var(--soft)}.off{color:var(--b);font-weight:600}.here{color:var(--a);font-weight:600}
.ours{background:var(--mark)}.numbers .ours th{font-weight:600}
.list tbody th{white-space:nowrap}.list td,.list th{border-top:1px solid var(--rule)}.list thead th{border-top:0}
.nowrap{white-space:nowrap}
.remarks{margin:12px 0 0;padding-left:1.2em;color:var(--soft);max-width:100ch}
details{margin-top:14px}summary{cursor:pointer;color:var(--a)}
dl{margin:10px 0 0}details dt{font-weight:600;margin-top:6px}details dd{margin:0;overflow-x:auto}
code{font:.86em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;white-space:nowrap}
@media print{body{background:none}section{break-inside:avoid}}
"""
