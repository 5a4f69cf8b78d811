"""The user's own results: a file of JSON lines that evaluations append to and the tables read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

IMAGES = {"imagenet": 50_000, "ade20k": 2_000, "cityscapes": 500, "coco_stuff": 5_000, "coco": 5_000}
"""Validation images of each data set: a result on fewer is not comparable with a published one."""


@dataclass(frozen=True)
class Result:
    """What one evaluation found."""

    recipe: str
    model: str
    metrics: dict[str, float]
    """in percent, by the names of `a2mamba eval --json`"""
    images: int
    image_size: int | None = None
    """side of the images in pixels; None where a data set's images keep their sizes"""
    multi_scale: bool = False
    checkpoint: str | None = None
    recorded: str | None = None
    """date and time, ISO 8601"""


class _Network(Protocol):
    """What a run says of its network."""

    @property
    def name(self) -> str: ...


def network_name(model: _Network) -> str:
    """Return how results call the network of a run: its name, and ``NETWORK on BACKBONE`` where it has another one."""
    backbone = getattr(model, "backbone", None)
    return model.name if backbone is None else f"{model.name} on {backbone}"


def record_result(
    file: Path,
    *,
    recipe: str,
    model: str,
    metrics: Mapping[str, float],
    images: int,
    image_size: int | None = None,
    multi_scale: bool = False,
    checkpoint: str | None = None,
) -> Result:
    """Append the result of an evaluation to a file, which is made where it is missing.

    Args:
        file: JSON lines, one a result. The line is written at once, so that runs side by side keep each other's lines.
        recipe: name of the recipe whose data were evaluated.
        model: name of the model.
        metrics: in percent, by the names of `a2mamba eval --json`.
        images: how many images were looked at.
        image_size: side in pixels of a classifier's images.
        multi_scale: whether several scales and mirror images were averaged.
        checkpoint: the file of the weights.

    Raises:
        ValueError: where nothing was measured, or a metric is not finite.
        OSError: if the file cannot be written.
    """
    finite = {name: float(value) for name, value in metrics.items()}
    if images < 1 or not finite or not all(map(math.isfinite, finite.values())):
        raise ValueError(f"a result needs at least one image and finite metrics, got {images} images and {finite}")
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    result = Result(recipe, model, finite, images, image_size, multi_scale, checkpoint, now)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")
    return result


def read_results(file: Path) -> list[Result]:
    """Return the results of a file, oldest first.

    Raises:
        ValueError: where a line is not a result; the message names file and line.
        OSError: if the file cannot be read.
    """
    results = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                results.append(_parsed(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{file}, line {number}: not a recorded result ({error})") from error
    return results


def _parsed(value: Any) -> Result:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, got {type(value).__name__}")
    types: dict[str, tuple[type, ...]] = {
        "recipe": (str,),
        "model": (str,),
        "metrics": (dict,),
        "images": (int,),
        "image_size": (int, type(None)),
        "multi_scale": (bool,),
        "checkpoint": (str, type(None)),
        "recorded": (str, type(None)),
    }
    optional = {"image_size": None, "multi_scale": False, "checkpoint": None, "recorded": None}
    value = {**optional, **value}
    if value.keys() != types.keys():
        raise ValueError(f"expected the keys {', '.join(types)}, got {', '.join(value)}")
    for key, allowed in types.items():
        if not isinstance(value[key], allowed):
            raise ValueError(f"{key} must not be {value[key]!r}")
    for name, number in value["metrics"].items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"metric {name} must be a finite number, got {number!r}")
    return Result(**value)
