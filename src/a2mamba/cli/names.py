"""Names of models of all tasks."""

from __future__ import annotations

import difflib
from typing import Literal

TaskName = Literal["classification", "segmentation", "detection"]


def task_of(name: str) -> TaskName:
    """Return the task of a model's name; ValueError for an unknown one, naming the nearest."""
    from a2mamba.backbone import list_models
    from a2mamba.detection import list_detectors
    from a2mamba.segmentation import list_segmenters

    known: dict[TaskName, list[str]] = {
        "classification": list_models(),
        "segmentation": list_segmenters(),
        "detection": list_detectors(),
    }
    for task, names in known.items():
        if name in names:
            return task
    nearest = difflib.get_close_matches(name, [name for names in known.values() for name in names], n=1)
    raise ValueError(f"unknown model {name!r}; {f'did you mean {nearest[0]!r}?' if nearest else 'see: a2mamba models'}")
