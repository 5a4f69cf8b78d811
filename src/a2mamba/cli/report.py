"""The demo's report: report.json, and report.html, one file that shows it without network, scripts or libraries."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from a2mamba.cli.page import STYLE, Line, nice, plot
from a2mamba.engine.duration import duration
from a2mamba.files import replace_text

MISTAKES_SHOWN = 6
SHOWN = 15


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write report.json and report.html into a folder; the images that ``report`` names are read there."""
    replace_text(folder / "report.json", json.dumps(report, indent=1))
    replace_text(folder / "report.html", render(folder, report))


def render(folder: Path, report: Mapping[str, Any]) -> str:
    """Return the page: its contents come from ``report`` and from the images below ``folder`` alone."""
    sections = (
        ("Training", _curves(report)),
        ("Where the mistakes are", _confusion(report["confusion"])),
        ("Predictions on held-out images", _predictions(folder, report["predictions"])),
        *((_SCENE_TITLES[task], _scene(folder, scene, report)) for task, scene in report["scenes"].items()),
        ("Do it again", _steps(report)),
        ("Machine and versions", _machine(report)),
    )
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>A2Mamba demo: {report['top1']:.2f} % top-1</title><style>{STYLE}</style></head>"
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
        (f"{model['macs'] / 1e6:.1f} M", "multiply-accumulates an image"),
        (duration(seconds["train"]), f"training, {len(report['training']['history'])} epochs"),
        (duration(report["seconds"]), "the whole way"),
    )
    cards = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for value, label in facts)
    return (
        '<header><p class="kicker">A2Mamba demo</p>'
        f'<div class="hero"><p class="big">{report["top1"]:.2f} %</p>'
        f"<div><h1>top-1 accuracy on handwritten digits that were not trained on</h1>{verdict}</div></div>"
        f"<p><code>{escape(model['name'])}</code>, from random weights, on {counts['train']:,} images of "
        f"{model['image'][1]} x {model['image'][2]} pixels. Of {images} held-out ones, {right} are right. "
        f"The number comes from a second process, which knows nothing but the checkpoint file and the images. "
        f'{_choice(report)}</p><dl class="cards">{cards}</dl></header>'
    )


def _choice(report: Mapping[str, Any]) -> str:
    """Say which epoch's checkpoint it is: it was chosen by the held-out images, so the last epoch is told too."""
    best, last = report["training"]["best"], report["training"]["history"][-1]
    if best is None:
        return ""
    weights = "the averaged weights" if best["metric"].startswith("ema_") else "the model"
    return (
        f"The checkpoint is that of epoch {best['epoch']}, the first at which {weights} did best on these images; "
        f"after the last epoch it is {last[best['metric']]:.2f} %."
    )


# ---- curves


def _curves(report: Mapping[str, Any]) -> str:
    history = report["training"]["history"]
    raw, averaged = "model", "averaged weights (EMA)"
    accuracy = plot(
        "Held-out top-1 accuracy, %",
        history,
        (Line("top1", raw, "a"), Line("ema_top1", averaged, "b")),
        _accuracy_range(history),
        lambda value: f"{value:g}",
        mark=(report["target_top1"], f"target {report['target_top1']:g} %"),
    )
    loss = plot(
        "Loss (nats)",
        history,
        (
            Line("loss", "training, smoothed targets", "c"),
            Line("eval_loss", f"held-out, {raw}", "a"),
            Line("ema_eval_loss", "held-out, EMA", "b"),
        ),
        (
            0.0,
            nice(max(row[name] for row in history for name in ("loss", "eval_loss", "ema_eval_loss") if name in row)),
        ),
        lambda value: f"{value:g}",
    )
    rate = plot(
        "Learning rate at the end of the epoch",
        history,
        (Line("lr", "learning rate", "a"),),
        (0.0, nice(max(row["lr"] for row in history))),
        lambda value: f"{value:.1e}".replace("e-0", "e-") if value else "0",
    )
    return f'<div class="plots">{accuracy}{loss}{rate}</div>'


def _accuracy_range(history: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Leave out the first climb, where the last part would be a flat line otherwise."""
    best = max(row[name] for row in history for name in ("top1", "ema_top1") if name in row)
    return (80.0, 100.0) if best > 90 else (0.0, 100.0)


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
    # A single mistake has to be seen, so its color begins far from none.
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
        f"<p>From a third process, <code>a2mamba predict</code>, one image at a time: {right} of "
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
    image = base64.b64encode((folder / prediction["image"]).read_bytes()).decode()
    true, top = _short(prediction["true"]), prediction["top"]
    bars = "".join(_bar(_short(entry["class"]), entry["probability"]) for entry in top[:3])
    verdict = f"✓ {true}" if prediction["right"] else f"✗ says {escape(_short(top[0]['class']))}, is {true}"
    return (
        f'<article class="{"right" if prediction["right"] else "wrong"}"><img src="data:image/png;base64,{image}" '
        f'width="96" height="96" alt="handwritten digit {true}, file {escape(prediction["image"])}" '
        f'title="{escape(prediction["image"])}"><p><b>{verdict}</b><small>{reason}</small></p>'
        f"<table><tbody>{bars}</tbody></table></article>"
    )


# ---- scenes

_SCENE_TITLES = {
    "segmentation": "Segmentation of scenes, on the classifier's backbone",
    "detection": "Detection in scenes, on the classifier's backbone",
}
_METRIC_NAMES = {
    "miou": "mean IoU",
    "macc": "mean class accuracy",
    "pixel_accuracy": "pixel accuracy",
    "box_ap": "box AP",
    "box_ap50": "box AP at IoU 0.5",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP at IoU 0.5",
}


def _scene(folder: Path, scene: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return what one system reached, its curves, its classes and its images."""
    recipe, config = scene["recipe"], scene["run"]["config"]
    # Under torchrun the command begins with the launcher's words.
    seconds = next(step["seconds"] for step in report["steps"] if f" train {recipe} " in step["command"])
    cards = [
        (f"{scene['metrics'][name]:.2f} %", label) for name, label in _METRIC_NAMES.items() if name in scene["metrics"]
    ]
    steps = f"training, {scene['history'][-1]['step']:.0f} steps of {config['data']['batch_size']}"
    cards.append((duration(seconds), steps))
    wanted = ", ".join(f"{_METRIC_NAMES[name]} {target:g} %" for name, target in scene["targets"].items())
    if report["small"]:
        verdict = f'<p class="verdict">debug form: no target (the full form has to reach {wanted})</p>'
    elif scene["passed"]:
        verdict = f'<p class="verdict good">✓ above the target: {wanted}</p>'
    else:
        verdict = f'<p class="verdict bad">✗ below the target: {wanted}</p>'
    images = "".join(_image(folder / name, text) for name, text in scene["drawings"].items())
    cells = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for value, label in cards)
    return (
        f"<p><code>{escape(config['model']['name'])}</code>, trained with <code>a2mamba train {recipe}</code> "
        f"from the classifier above; {scene['images']} held-out scenes.</p>{verdict}"
        f'<dl class="cards">{cells}</dl><div class="plots">{_scene_curves(scene)}</div>'
        f"{_scene_classes(scene)}{images}"
    )


def _scene_curves(scene: Mapping[str, Any]) -> str:
    history, metrics = scene["history"], list(scene["targets"])
    plots = [
        plot(
            f"Held-out {_METRIC_NAMES[name]}, %",
            history,
            (Line(name, "model", "a"), Line(f"ema_{name}", "averaged weights (EMA)", "b")),
            (0.0, 100.0),
            lambda value: f"{value:g}",
            mark=(scene["targets"][name], f"target {scene['targets'][name]:g} %"),
        )
        for name in metrics
    ]
    losses = Line("loss", "training", "c")
    top = nice(max(row["loss"] for row in history))
    return "".join(plots) + plot("Loss", history, (losses,), (0.0, top), lambda value: f"{value:g}")


def _scene_classes(scene: Mapping[str, Any]) -> str:
    """Return a bar for each class that occurs: IoU, or the average precision of its boxes."""
    key, caption = ("iou", "IoU of each class") if "iou" in scene["classes"][0] else ("box_ap", "Box AP of each class")
    known = [row for row in scene["classes"] if row[key] is not None and not math.isnan(row[key])]
    rows = "".join(_bar(row["class"], row[key] / 100) for row in known)
    return f'<table class="classes"><caption>{caption}</caption><tbody>{rows}</tbody></table>'


def _image(path: Path, text: str) -> str:
    image = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure class="shown"><figcaption>{escape(text)}</figcaption>'
        f'<img src="data:image/png;base64,{image}" alt="{escape(text)}"></figure>'
    )


# ---- how and where


def _steps(report: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{step["name"]}</th><td class="wide"><code>{escape(step["command"])}</code></td>'
        f"<td>{duration(step['seconds'])}</td></tr>"
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
