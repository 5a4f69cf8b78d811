"""What a checkpoint file holds: its content, read once, and the run that made it where the file says so."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from a2mamba.backbone import read_file
from a2mamba.engine.checkpoint import FORMAT
from a2mamba.files import parse_json
from a2mamba.recipes.overrides import from_json, to_json
from a2mamba.tasks import TASKS, AnyRun, TrainingRun

_OURS = "a2mamba-checkpoint"


class Trained(NamedTuple):
    """What a checkpoint of ours says about itself."""

    run: AnyRun
    recipe: str
    classes: list[str]


class Checkpoint(NamedTuple):
    """A file of weights. trained: None where it is not a training checkpoint of ours."""

    content: Mapping[str, Any]
    trained: Trained | None


def describe(run: TrainingRun, recipe: str, classes: Sequence[str]) -> str:
    """Return what a checkpoint says about its run, as JSON: task, recipe, configuration, class names."""
    config: dict[str, Any] = json.loads(to_json(run))
    return json.dumps({"task": run.task, "recipe": recipe, "config": config, "classes": list(classes)}, indent=2)


def read_checkpoint(path: Path) -> Checkpoint:
    """Return the content of a file of weights of any layout, and the run that made it; no code from it is run.

    Raises:
        ValueError: if the file is missing, damaged (of ours every record's CRC-32 is verified), of another version or
            of an unknown task.
    """
    content = read_file(path)
    found = str(content.get("format", ""))
    if not found.startswith(_OURS):
        return Checkpoint(content, None)
    if found != FORMAT:
        raise ValueError(f"{path} is a training checkpoint of another version: format {found!r}, expected {FORMAT!r}")
    try:
        stored = parse_json(content["run"], f"{path}: run")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} does not describe its run ({type(error).__name__}: {error})") from None
    return Checkpoint(content, parse_run(stored, f"checkpoint {path}"))


def parse_run(stored: Mapping[str, Any], name: str) -> Trained:
    """Return what `describe` wrote, checked.

    Raises:
        ValueError: something is missing, of another kind, or of an unknown task; the message has ``name``.
    """
    try:
        task, config, recipe, classes = (stored[key] for key in ("task", "config", "recipe", "classes"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} does not describe its run ({type(error).__name__}: {error})") from None
    if task not in TASKS:
        raise ValueError(f"{name} is of the task {task!r}; this version knows {', '.join(TASKS)}")
    return Trained(from_json(TASKS[task].run_type, json.dumps(config)), recipe, list(classes))
