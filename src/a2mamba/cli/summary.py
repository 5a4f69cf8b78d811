"""A run's summary.html: curves and resolved configuration in one file without network, scripts or libraries."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from a2mamba.cli.page import STYLE, Line, nice, plot
from a2mamba.engine import duration, read_metrics
from a2mamba.files import read_json, replace_text

_STYLES = ("a", "b", "c")


def write_summary(folder: Path) -> Path | None:
    """Write summary.html into a run's folder, from metrics.csv and run.json there; None where there are no rows yet."""
    if not (folder / "metrics.csv").is_file() or not (folder / "run.json").is_file():
        return None
    history = read_metrics(folder / "metrics.csv")
    if not history:
        return None
    run = read_json(folder / "run.json")
    quarantine = folder / "quarantine.json"
    undecodable = read_json(quarantine).get("quarantined") if quarantine.is_file() else {}
    path = folder / "summary.html"
    try:
        page = render(run, history, undecodable)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'run.json'} or quarantine.json is not what a run wrote: {error!r}") from None
    replace_text(path, page)
    return path


def render(
    run: Mapping[str, Any], history: Sequence[Mapping[str, float]], undecodable: Mapping[str, str] | None = None
) -> str:
    """Return the page.

    Args:
        run: what run.json holds: task, recipe, config, classes.
        history: one row an epoch; rows may lack what was not measured in their epoch.
        undecodable: training images that could not be decoded, and why.
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    losses = [name for name in columns if name.startswith("loss") or name.endswith("eval_loss")]
    bookkeeping = {"epoch", "step", "lr", "seconds", "images_per_second", "undecodable_images"}
    metrics = [name for name in columns if name not in bookkeeping and name not in losses]
    figures = []
    # The averaged model's metric belongs into the figure of the model's own.
    for name in [name for name in metrics if not name.startswith("ema_") or name.removeprefix("ema_") not in metrics]:
        lines = [Line(name, name, "a")]
        if f"ema_{name}" in metrics:
            lines.append(Line(f"ema_{name}", f"{name} of the averaged model", "b"))
        figures.append(_figure(name, history, lines))
    for title, names in (
        ("training loss", [name for name in losses if name.startswith("loss")]),
        ("held-out loss", [name for name in losses if not name.startswith("loss")]),
    ):
        for start in range(0, len(names), len(_STYLES)):  # a figure tells three lines apart
            part = names[start : start + len(_STYLES)]
            lines = [Line(name, name.replace("_", " "), style) for name, style in zip(part, _STYLES, strict=False)]
            figures.append(_figure(title, history, lines))
    for name, title in (("lr", "learning rate"), ("images_per_second", "images per second")):
        figures.append(_figure(title, history, [Line(name, title, "a")]))
    plots = "".join(figure for figure in figures if figure)
    title = f"{run['recipe']}: {run['config']['model']['name']}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"{_header(run, history, metrics)}<section><h2>Curves</h2><div class='plots'>{plots}</div></section>"
        f"{_undecodable(undecodable or {})}"
        f"<section><h2>Resolved run</h2>{_configuration(run['config'])}</section>"
        "<footer><p>Written by <code>a2mamba train</code>; the numbers are in metrics.csv and run.json beside this "
        "page.</p></footer></main></body></html>\n"
    )


def _header(run: Mapping[str, Any], history: Sequence[Mapping[str, float]], metrics: Sequence[str]) -> str:
    last = history[-1]
    cards = [(f"{last['epoch']:g}", "epochs"), (f"{last['step']:,.0f}", "optimizer steps")]
    for name in metrics:
        best = max((row for row in history if name in row), key=lambda row: row[name])  # the first of equal ones
        cards.append((f"{best[name]:.2f}", f"highest {name}, epoch {best['epoch']:g}"))
    cards.append((duration(sum(row.get("seconds", 0.0) for row in history)), "in training steps"))
    shown = "".join(f"<div><dt>{escape(label)}</dt><dd>{value}</dd></div>" for value, label in cards)
    return (
        f'<header><p class="kicker">{escape(str(run["task"]))}</p><h1>{escape(run["recipe"])}: '
        f"{escape(run['config']['model']['name'])}, {len(run['classes'])} classes</h1>"
        f'<dl class="cards">{shown}</dl></header>'
    )


def _figure(title: str, history: Sequence[Mapping[str, float]], lines: Sequence[Line]) -> str:
    values = [row[line.column] for row in history for line in lines if line.column in row]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    low = 0.0 if min(finite) >= 0 else -nice(-min(finite))
    high = nice(max(finite)) if max(finite) > 0 else (1.0 if low == 0 else 0.0)
    rows = [{name: value for name, value in row.items() if math.isfinite(value)} for row in history]
    return plot(escape(title), rows, lines, (low, high), _tick)


def _tick(value: float) -> str:
    """A number of at most five characters where possible: more does not fit beside an axis."""
    return f"{value:.1e}".replace("e-0", "e-") if 0 < abs(value) < 0.01 else f"{value:.3g}"


def _undecodable(reasons: Mapping[str, str]) -> str:
    if not reasons:
        return ""
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th><td>{escape(reason)}</td></tr>'
        for name, reason in reasons.items()
    )
    title = f"{len(reasons)} training images could not be decoded and were replaced"
    table = f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'
    return f"<section><h2>{title}</h2>{table}</section>"


def _configuration(config: Mapping[str, Any], prefix: str = "") -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(key)}</code></th><td>{escape(json.dumps(value))}</td></tr>'
        for key, value in _leaves(config, prefix)
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _leaves(config: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        found += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found
