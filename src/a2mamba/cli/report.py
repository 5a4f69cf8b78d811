"""The demo's report: report.json, and report.html, one file that shows it without network, scripts or libraries."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from a2mamba.engine.files import replace_text

MISTAKES_SHOWN = 6
SHOWN = 15


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json and report.html into a folder; the pictures that ``report`` names are read there."""
    replace_text(folder / "report.json", json.dumps(report, indent=1))
    replace_text(folder / "report.html", render(folder, report))


def render(folder: Path, report: Mapping[str, Any]) -> str:
    """Return the page: its contents come from ``report`` and from the pictures below ``folder`` alone."""
    sections = (
        ("Training", _curves(report)),
        ("Where the mistakes are", _confusion(report["confusion"])),
        ("Predictions on held-out pictures", _predictions(folder, report["predictions"])),
        ("Do it again", _steps(report)),
        ("Machine and versions", _machine(report)),
    )
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>A2Mamba demo: {report['top1']:.2f} % top-1</title><style>{_STYLE}</style></head>"
        f"<body><main>{_headline(report)}{body}{_footer(report)}</main></body></html>\n"
    )


def _headline(report: Mapping[str, Any]) -> str:
    model, target = report["model"], report["target_top1"]
    images, counts = report["evaluation"]["images"], report["data"]["imagenet"]
    right = round(images * report["top1"] / 100)
    if report["small"]:
        verdict = f'<p class="verdict">debug form: no target (the full form has to reach {target:g} %)</p>'
    elif report["passed"]:
        verdict = f'<p class="verdict good">✓ above the target of {target:g} %</p>'
    else:
        verdict = f'<p class="verdict bad">✗ below the target of {target:g} %</p>'
    seconds = {step["name"]: step["seconds"] for step in report["steps"]}
    facts = (
        (f"{report['top5']:.2f} %", "top-5 accuracy"),
        (f"{model['parameters'] / 1e6:.2f} M", "parameters"),
        (f"{model['macs'] / 1e6:.1f} M", "multiply-accumulates a picture"),
        (_duration(seconds["train"]), f"training, {len(report['training']['history'])} epochs"),
        (_duration(report["seconds"]), "the whole way"),
    )
    cards = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for value, label in facts)
    return (
        '<header><p class="kicker">A2Mamba demo</p>'
        f'<div class="hero"><p class="big">{report["top1"]:.2f} %</p>'
        f"<div><h1>top-1 accuracy on handwritten digits that were not trained on</h1>{verdict}</div></div>"
        f"<p><code>{escape(model['name'])}</code>, from random weights, on {counts['train']:,} pictures of "
        f"{model['image'][1]} x {model['image'][2]} pixels. Of {images} held-out ones, {right} are right. "
        f"The number comes from a second process, which knows nothing but the checkpoint file and the pictures. "
        f'{_choice(report)}</p><dl class="cards">{cards}</dl></header>'
    )


def _choice(report: Mapping[str, Any]) -> str:
    """Say which epoch's checkpoint it is: it was chosen by the held-out pictures, so the last epoch is told too."""
    best, last = report["training"]["best"], report["training"]["history"][-1]
    if best is None:
        return ""
    weights = "the averaged weights" if best["metric"].startswith("ema_") else "the model"
    return (
        f"The checkpoint is that of epoch {best['epoch']}, the first at which {weights} did best on these pictures; "
        f"after the last epoch it is {last[best['metric']]:.2f} %."
    )


# ---- curves


class _Line(NamedTuple):
    """A curve: the column of the history, its name, and its style's class."""

    column: str
    name: str
    style: str


def _curves(report: Mapping[str, Any]) -> str:
    history = report["training"]["history"]
    raw, averaged = "model", "averaged weights (EMA)"
    accuracy = _plot(
        "Held-out top-1 accuracy, %",
        history,
        (_Line("top1", raw, "a"), _Line("ema_top1", averaged, "b")),
        _accuracy_range(history),
        lambda value: f"{value:g}",
        mark=(report["target_top1"], f"target {report['target_top1']:g} %"),
    )
    loss = _plot(
        "Loss (nats)",
        history,
        (
            _Line("loss", "training, smoothed targets", "c"),
            _Line("eval_loss", f"held-out, {raw}", "a"),
            _Line("ema_eval_loss", "held-out, EMA", "b"),
        ),
        (
            0.0,
            _nice(max(row[name] for row in history for name in ("loss", "eval_loss", "ema_eval_loss") if name in row)),
        ),
        lambda value: f"{value:g}",
    )
    rate = _plot(
        "Learning rate at the end of the epoch",
        history,
        (_Line("lr", "learning rate", "a"),),
        (0.0, _nice(max(row["lr"] for row in history))),
        lambda value: f"{value:.1e}".replace("e-0", "e-") if value else "0",
    )
    return f'<div class="plots">{accuracy}{loss}{rate}</div>'


def _accuracy_range(history: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Leave out the first climb, where the last part would be a flat line otherwise."""
    best = max(row[name] for row in history for name in ("top1", "ema_top1") if name in row)
    return (80.0, 100.0) if best > 90 else (0.0, 100.0)


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 330, 220, 46, 12, 38, 12


def _plot(
    title: str,
    history: Sequence[Mapping[str, float]],
    lines: Sequence[_Line],
    limits: tuple[float, float],
    write: Callable[[float], str],
    *,
    mark: tuple[float, str] | None = None,
) -> str:
    """Return a figure with one curve a line over the epochs; what lies outside the limits is cut off."""
    low, high = limits
    last = max(history[-1]["epoch"], 2)
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(epoch: float) -> float:
        return _LEFT + inner_width * (epoch - 1) / (last - 1)

    def y(value: float) -> float:
        return _TOP + inner_height * (high - value) / (high - low)

    parts = []
    for i in range(5):
        value = low + (high - low) * i / 4
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 7}" y="{y(value) + 4:.1f}" text-anchor="end">{write(value)}</text>')
    parts += [
        f'<text x="{x(epoch):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{epoch}</text>'
        for epoch in _epoch_ticks(int(last))
    ]
    parts.append(f'<text x="{_LEFT + inner_width / 2}" y="{_HEIGHT - 3}" text-anchor="middle">epoch</text>')
    if mark is not None:
        value, label = mark
        parts.append(
            f'<line class="mark" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
            f'<text class="marked" x="{_WIDTH - _RIGHT}" y="{y(value) + 15:.1f}" text-anchor="end">{label}</text>'
        )
    drawn, keys, finals = [], [], []
    for line in lines:
        points = [(row["epoch"], row[line.column]) for row in history if line.column in row]
        if not points:
            continue
        path = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in points)
        drawn.append(f'<polyline class="line {line.style}" points="{path}"/>')
        for epoch, value in points:
            if low <= value <= high:
                tip = f"<title>epoch {epoch:g}, {line.name}: {value:.4g}</title>"
                drawn.append(
                    f'<circle class="dot {line.style}" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="3">{tip}</circle>'
                )
        keys.append(
            '<li><svg class="key" viewBox="0 0 26 8" aria-hidden="true">'
            f'<line class="line {line.style}" x2="26" y1="4" y2="4"/></svg>{line.name} <b>{points[-1][1]:.4g}</b></li>'
        )
        finals.append(f"{line.name} ends at {points[-1][1]:.4g}")
    # Room for a line that runs along the border.
    window = f"{_LEFT - 4} {_TOP - 4} {inner_width + 8} {inner_height + 8}".split()
    return (
        f'<figure><figcaption>{title}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)} over {len(history)} epochs: {escape("; ".join(finals))}">{"".join(parts)}'
        f'<svg x="{window[0]}" y="{window[1]}" width="{window[2]}" height="{window[3]}" '
        f'viewBox="{" ".join(window)}">{"".join(drawn)}</svg></svg><ul class="keys">{"".join(keys)}</ul></figure>'
    )


def _nice(value: float) -> float:
    """Return the next number of the series 1, 2, 4, 6, 8, 10 times a power of ten, which four divides well enough."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= value)


def _epoch_ticks(last: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, last) if last / step <= 8)
    return sorted({1, *range(step, last + 1, step)} - ({step} if step == 2 else set()))


# ---- confusion


def _confusion(confusion: Mapping[str, Any]) -> str:
    return f'<div class="beside">{_matrix(confusion)}{_classes(confusion)}</div>'


def _matrix(confusion: Mapping[str, Any]) -> str:
    names, matrix = [_short(name) for name in confusion["classes"]], confusion["matrix"]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for i, counts in enumerate(matrix):
        cells = "".join(_cell(count, max(sum(counts), 1), right=i == j) for j, count in enumerate(counts))
        rows.append(f'<tr><th scope="row">{escape(names[i])}</th>{cells}</tr>')
    return (
        '<div class="scroll"><table class="matrix"><caption>Confusion matrix: how often the class on the left was '
        f"taken for the class above</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(count: int, total: int, *, right: bool) -> str:
    if count == 0:
        return '<td class="none"><span aria-label="0">·</span></td>'
    share = count / total
    # A single mistake has to be seen, so its colour begins far from none.
    strength = round(15 + 85 * share if right else 45 + 55 * share)
    return f'<td class="{"right" if right else "wrong"}" style="--share:{strength}%">{count}</td>'


def _classes(confusion: Mapping[str, Any]) -> str:
    rows = [
        _bar(_short(name), counts[i] / max(sum(counts), 1), f"{counts[i]} of {sum(counts)}")
        for i, (name, counts) in enumerate(zip(confusion["classes"], confusion["matrix"], strict=True))
    ]
    return f'<table class="classes"><caption>Accuracy of each class</caption><tbody>{"".join(rows)}</tbody></table>'


def _bar(name: str, share: float, *more: str) -> str:
    """Return a table's row: name, bar, percent, and further cells."""
    cells = "".join(f"<td>{cell}</td>" for cell in (f"{100 * share:.1f} %", *more))
    bar = f'<span class="bar"><i style="width:{100 * share:.1f}%"></i></span>'
    return f'<tr><th scope="row">{escape(name)}</th><td class="wide">{bar}</td>{cells}</tr>'


def _short(name: str) -> str:
    """Return `3` for `digit_3`."""
    return name.removeprefix("digit_")


# ---- predictions


def _predictions(folder: Path, predictions: Sequence[Mapping[str, Any]]) -> str:
    right = sum(prediction["right"] for prediction in predictions)
    shown = _chosen(predictions)
    cards = "".join(_card(folder, prediction, reason) for prediction, reason in shown)
    return (
        f"<p>From a third process, <code>a2mamba predict</code>, one picture at a time: {right} of "
        f"{len(predictions)} are right. Shown are {_mistakes(shown, len(predictions) - right)} those right ones of "
        f'which the model is least sure, and the first right one of every class.</p><div class="grid">{cards}</div>'
    )


def _mistakes(shown: Sequence[tuple[Mapping[str, Any], str]], count: int) -> str:
    if count == 0:
        return "no mistakes, since there are none;"
    among = sum(not prediction["right"] for prediction, _ in shown)
    return f"the {count} mistakes," if among == count else f"{among} of the {count} mistakes,"


def _chosen(predictions: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], str]]:
    """Return predictions worth a look, each once, with what makes it so."""

    def confidence(prediction: Mapping[str, Any]) -> float:
        return prediction["top"][0]["probability"]

    wrong = sorted((p for p in predictions if not p["right"]), key=confidence, reverse=True)[:MISTAKES_SHOWN]
    firsts = {p["true"]: p for p in reversed(predictions) if p["right"]}
    first = [firsts[name] for name in sorted(firsts)]
    room = max(SHOWN - len(wrong) - len(first), 0)
    unsure = sorted((p for p in predictions if p["right"] and p not in first), key=confidence)[:room]
    return [
        *((p, "mistake") for p in wrong),
        *((p, "right, least sure") for p in unsure),
        *((p, "right") for p in first),
    ]


def _card(folder: Path, prediction: Mapping[str, Any], reason: str) -> str:
    picture = base64.b64encode((folder / prediction["image"]).read_bytes()).decode()
    true, top = _short(prediction["true"]), prediction["top"]
    bars = "".join(_bar(_short(entry["class"]), entry["probability"]) for entry in top[:3])
    verdict = f"✓ {true}" if prediction["right"] else f"✗ says {escape(_short(top[0]['class']))}, is {true}"
    return (
        f'<article class="{"right" if prediction["right"] else "wrong"}"><img src="data:image/png;base64,{picture}" '
        f'width="96" height="96" alt="handwritten digit {true}, file {escape(prediction["image"])}" '
        f'title="{escape(prediction["image"])}"><p><b>{verdict}</b><small>{reason}</small></p>'
        f"<table><tbody>{bars}</tbody></table></article>"
    )


# ---- how and where


def _steps(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{step["name"]}</th><td class="wide"><code>{escape(step["command"])}</code></td>'
        f"<td>{_duration(step['seconds'])}</td></tr>"
        for step in report["steps"]
    )
    whole = "<code>a2mamba demo DIR --small</code> takes" if report["small"] else "<code>make demo</code> takes"
    return (
        f"<p>{whole} the whole way. Its steps are commands of their own, run in an empty folder:</p>"
        f'<div class="scroll"><table class="steps"><tbody>{rows}</tbody></table></div>'
    )


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    where = f"{machine['accelerator']} ({machine['device']})" if machine["accelerator"] else machine["device"]
    rows = [
        ("device", where),
        ("processor", f"{machine['processor']}, {machine['cpus']} CPUs usable, threads a step: {machine['threads']}"),
        ("system", machine["system"]),
        *report["versions"].items(),
    ]
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in rows
    )
    return f'<table class="facts"><tbody>{cells}</tbody></table>'


def _footer(report: Mapping[str, Any]) -> str:
    return (
        f"<footer><p>Written {escape(report['created'])} by <code>a2mamba demo</code>; all numbers are in report.json "
        "beside this page. The digits are those of scikit-learn: the test part of “Optical Recognition of Handwritten "
        "Digits”, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0."
        "</p></footer>"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


# Blue and vermilion stay apart for every common form of colour blindness; a mistake has a sign and a word too.
_STYLE = """
:root{color-scheme:light dark;--page:#f5f6f8;--card:#fff;--ink:#1b1f24;--soft:#59626d;--rule:#dcdfe4;
--a:#0072b2;--b:#c4520a;--c:#7a8089;--right:#59a8dc;--wrong:#f08f55;--good:#0b6b3f;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2126;--ink:#e8eaed;--soft:#a3abb5;--rule:#343a42;
--a:#5bb8f0;--b:#f0a04b;--c:#959da8;--right:#0d659f;--wrong:#a8480b;--good:#6fd6a0;--bad:#ff8f85}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 20px 12px}
header,section{margin-bottom:18px;background:var(--card);border:1px solid var(--rule);border-radius:12px;
padding:22px 26px}
p{margin:.5em 0;max-width:78ch}h1{font-size:1.35rem;line-height:1.3;margin:0;font-weight:600}
h2{font-size:1.15rem;margin:0 0 .7em}
code{font:.88em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.kicker{color:var(--soft);margin:0;font-size:.9rem;letter-spacing:.04em}
.hero{display:flex;flex-wrap:wrap;gap:6px 30px;align-items:center;margin:4px 0 10px}
.big{font-size:4.2rem;line-height:1.1;font-weight:700;margin:0;color:var(--a);font-variant-numeric:tabular-nums}
.verdict{font-weight:600;margin:.25em 0 0;color:var(--soft)}.good{color:var(--good)}.bad{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0 2px}
.cards div{border-left:3px solid var(--a);padding:1px 0 1px 12px;
display:flex;flex-direction:column-reverse;justify-content:flex-end}
.cards dt{color:var(--soft);font-size:.85rem;line-height:1.3}.cards dd{margin:0;font-size:1.3rem;font-weight:600}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(310px,1fr));gap:18px}
figure{margin:0}figcaption{font-weight:600;font-size:.92rem;margin-bottom:6px}
figure>svg{width:100%;height:auto;display:block}svg text{font-size:12.5px;fill:var(--soft)}
.plots .grid{stroke:var(--rule);stroke-width:1}
.mark{stroke:var(--good);stroke-width:1.5;stroke-dasharray:6 4}svg .marked{fill:var(--good)}
.line{fill:none;stroke-width:2.4;stroke-linejoin:round}.dot{stroke:none}
.line.a{stroke:var(--a)}.line.b{stroke:var(--b);stroke-dasharray:7 3}.line.c{stroke:var(--c)}
.dot.a{fill:var(--a)}.dot.b{fill:var(--b)}.dot.c{fill:var(--c)}
.keys{list-style:none;margin:6px 0 0;padding:0;font-size:.85rem;color:var(--soft)}.keys b{color:var(--ink)}
.key{width:26px;height:8px;margin-right:8px}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}caption{text-align:left;color:var(--soft);
font-size:.9rem;padding-bottom:8px}th{font-weight:600;text-align:left}
.scroll{overflow-x:auto}
.beside{display:flex;flex-wrap:wrap;gap:24px 44px}.beside>*{flex:0 1 auto;max-width:100%}
.beside .classes{flex:1 1 300px;align-self:flex-start}
.matrix td,.matrix thead th,.matrix tbody th{width:46px;height:36px;text-align:center;padding:0}
.matrix td{border:2px solid var(--card);border-radius:6px;--tint:var(--right);
background:color-mix(in srgb,var(--tint) var(--share,0%),var(--card))}
.matrix .wrong{--tint:var(--wrong);font-weight:700}.matrix .none{color:var(--soft);background:var(--page)}
.classes td,.classes th{padding:3px 10px 3px 0;white-space:nowrap}.classes{width:100%;max-width:520px}
.wide{width:100%}
.bar{display:block;height:9px;border-radius:5px;background:var(--rule);overflow:hidden}
.bar i{display:block;height:100%;background:var(--a)}
section>.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(178px,1fr));gap:14px;margin-top:14px}
article{border:1px solid var(--rule);border-radius:10px;padding:12px}
article.wrong{border:2px solid var(--b);padding:11px}article.wrong .bar i{background:var(--b)}
article.wrong b{color:var(--b)}
article img{image-rendering:pixelated;display:block;border-radius:6px;margin:0 auto;background:#000}
article p{margin:8px 0 4px;line-height:1.3}article small{display:block;color:var(--soft)}
article table{width:100%;font-size:.82rem}article td,article th{padding:1px 6px 1px 0;white-space:nowrap}
article td:last-child{padding:0;text-align:right}
.steps td,.steps th,.facts td,.facts th{padding:6px 18px 6px 0;vertical-align:top;border-top:1px solid var(--rule)}
.steps td:last-child{white-space:nowrap;padding-right:0;text-align:right}
.facts th{font-weight:400;color:var(--soft)}
footer{color:var(--soft);font-size:.85rem;padding:0 6px}
@media print{body{background:none}section{break-inside:avoid}}
"""
