"""The model card: what a network is, what it was trained on and how, what was measured, and how to use it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from a2mamba.data.names import some
from a2mamba.tasks import AnyRun

_PIPELINES = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}
"""Task -> the hub's name for it."""
_CLASSES_NAMED = 200
_HUB_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LEFT_OUT = ("root", "workers", "eval_batch_size")
"""Of the data's configuration: what says nothing about the network."""


def model_card(
    model: nn.Module,
    run: AnyRun,
    classes: Sequence[str],
    *,
    recipe: str | None,
    best: Mapping[str, Any] | None,
    license: str | None,
) -> str:
    """Return the card as Markdown, with the hub's record before it.

    Raises:
        ValueError: a license that the hub would not read.
    """
    if license is not None and not _HUB_LICENSE.fullmatch(license):
        raise ValueError(f"license={license!r}: expected an identifier of the hub, such as apache-2.0 or other")
    name, parameters = run.model.name, sum(parameter.numel() for parameter in model.parameters())
    parts = [
        _record(run, license),
        f"# {name}, {run.task}",
        f"A network of {parameters / 1e6:.2f} million parameters for {run.task} with {len(classes)} classes, "
        "saved by a2mamba.",
        f"License of the weights: {license or 'none stated'}.",
        "## Measured",
        _measured(best),
        "## Training",
        _training(run, recipe),
        "## Use",
        _use(run),
        "## Classes",
        _code(some(classes, _CLASSES_NAMED)),
    ]
    return "\n\n".join(parts) + "\n"


def _record(run: AnyRun, license: str | None) -> str:
    lines = ["---", f"library_name: {'timm' if run.task == 'classification' else 'a2mamba'}"]
    lines += [f"pipeline_tag: {_PIPELINES[run.task]}"]
    lines += [] if license is None else [f"license: {license}"]
    return "\n".join([*lines, "tags:", "- a2mamba", f"- {_PIPELINES[run.task]}", "---"])


def _measured(best: Mapping[str, Any] | None) -> str:
    if best is None or not math.isfinite(best["value"]):
        return "Nothing was measured on these weights, or the file that they come from does not say so."
    metric = str(best["metric"])
    averaged = " of the averaged weights" if metric.startswith("ema_") else ""
    return (
        f"| metric | value | after epoch |\n|---|---|---|\n"
        f"| {metric.removeprefix('ema_')}{averaged}, held-out split | {best['value']:.2f} % | {best['epoch']} |"
    )


def _training(run: AnyRun, recipe: str | None) -> str:
    if not recipe:
        return "These weights came without a record of their training."
    rows = {"recipe": recipe, "precision": run.precision, "seed": run.seed}
    for group in ("data", "optimizer", "schedule"):
        for key, value in vars(getattr(run, group)).items():
            if key not in _LEFT_OUT and value is not None:
                rows[f"{group}.{key}"] = value
    return "\n".join(
        ["| option | value |", "|---|---|", *(f"| {key} | {_code(value)} |" for key, value in rows.items())]
    )


def _code(value: object) -> str:
    """A value as code, in which names do nothing to the document."""
    return f"`{str(value).replace('`', chr(39)).replace('|', '/')}`".replace("\n", " ")


def _use(run: AnyRun) -> str:
    ours = (
        "```python\nimport a2mamba\n\n"
        'a2mamba.load("FOLDER").predict("photo.jpg").save("out")  # or "hf-hub:USER/NAME"\n```'
    )
    if run.task != "classification":
        return ours
    return (
        f"{ours}\n\nThe same folder in timm and in transformers, once a2mamba is imported:\n\n"
        "```python\nimport a2mamba, timm, transformers\n\n"
        'model = timm.create_model("local-dir:FOLDER", pretrained=True)\n'
        'pipeline = transformers.pipeline("image-classification", model="FOLDER")\n```'
    )
