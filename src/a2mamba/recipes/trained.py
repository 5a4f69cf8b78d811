"""What a training checkpoint says about itself, whatever its task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from a2mamba.backbone import read_file
from a2mamba.engine import load_checkpoint_file
from a2mamba.recipes.classification import ClassificationRun
from a2mamba.recipes.detection import DetectionRun
from a2mamba.recipes.overrides import from_json
from a2mamba.recipes.segmentation import SegmentationRun

AnyRun = ClassificationRun | SegmentationRun | DetectionRun

RUNS: dict[str, type[AnyRun]] = {run.task: run for run in (ClassificationRun, SegmentationRun, DetectionRun)}
"""The configuration of each task."""


class Trained(NamedTuple):
    """What a checkpoint of ours says about itself."""

    run: AnyRun
    recipe: str
    classes: list[str]


def read_trained(checkpoint: Path) -> Trained | None:
    """Return the run that made a checkpoint, or None where the file is not a training checkpoint of ours.

    Raises:
        ValueError: if the file is damaged, or of an unknown task.
    """
    if not str(read_file(checkpoint).get("format", "")).startswith("a2mamba-checkpoint"):
        return None
    content: dict[str, Any] = json.loads(load_checkpoint_file(checkpoint)["run"])
    task = content.get("task")
    if task not in RUNS:
        raise ValueError(f"{checkpoint}: a checkpoint of the task {task!r}; this version knows {', '.join(RUNS)}")
    run = from_json(RUNS[task], json.dumps(content["config"]))
    return Trained(run, content["recipe"], content["classes"])
