"""What the pages of commands are made of: a style sheet, and curves as SVG; no network, scripts or libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple


class Line(NamedTuple):
    """A curve: the column of the history, its name, and its style's class."""

    column: str
    name: str
    style: str


_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 330, 220, 46, 12, 38, 12


def plot(
    title: str,
    history: Sequence[Mapping[str, float]],
    lines: Sequence[Line],
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


def nice(value: float) -> float:
    """Return the next number of the series 1, 2, 4, 6, 8, 10 times a power of ten, which four divides well enough."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 2, 4, 6, 8, 10) if step * unit >= value)


def _epoch_ticks(last: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, last) if last / step <= 8)
    return sorted({1, *range(step, last + 1, step)} - ({step} if step == 2 else set()))


# Blue and vermilion stay apart for every common form of color blindness; a mistake has a sign and a word too.
STYLE = """
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
.shown{margin-top:18px}
.shown img{max-width:100%;height:auto;display:block;border-radius:8px;border:1px solid var(--rule)}
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
