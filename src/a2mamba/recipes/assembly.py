"""Training, rehearsing and loading a run of any task.

What differs between tasks is in the module of the run's task, which has `prepare`, `data_size`, `build_model`,
`build_parts`, `plan`, `samples_on_cpu` and `debug`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from a2mamba.backbone import load_checkpoint
from a2mamba.engine import Ema, Trainer
from a2mamba.recipes import classification, detection, segmentation
from a2mamba.recipes.dry_run import Length, Rehearsal, describe_groups, measure_cost
from a2mamba.recipes.training import LearnsFromAverage, Resume, TrainingRun, fit

_MODULES = {"classification": classification, "segmentation": segmentation, "detection": detection}


def module_of(run: TrainingRun) -> ModuleType:
    """Return the module of a run's task."""
    return _MODULES[run.task]


def train(
    run: TrainingRun,
    output: Path,
    *,
    recipe: str,
    resume: Resume = "never",
    max_minutes: float | None = None,
    device: str,
    quiet: bool = False,
) -> Trainer:
    """Train, evaluate and save a run into a folder; return the trainer, with its history.

    Args:
        run: the resolved configuration; it is stored with every checkpoint.
        output: folder for checkpoints/, metrics.csv and run.json, and where there was need for them for
            quarantine.json (samples that could not be decoded) and faults/ (batches of steps that were not finite).
        recipe: name that the run came from, stored too.
        resume: whether to go on from the newest checkpoint in ``output``; see `Resume`.
        max_minutes: save and stop after so many minutes.
        device: "cpu", "cuda", "mps", ...
        quiet: no progress display.

    Raises:
        ValueError: where configuration, data or a checkpoint do not fit; one line.
        TrainingError: where training cannot go on, a non-finite loss above all.
        Interrupted: after a request to stop, when everything was saved.
    """
    prepared = module_of(run).prepare(run, device=device)
    return fit(run, output, prepared, recipe=recipe, resume=resume, max_minutes=max_minutes, device=device, quiet=quiet)


def rehearse(run: TrainingRun, *, device: torch.device | str, measure: bool = True) -> Rehearsal:
    """Say what a run would do and cost, without its images where they are missing; nothing is written.

    Args:
        run: the resolved configuration.
        device: where it would be trained.
        measure: make a few steps on noise.

    Raises:
        ValueError: where numbers or weights do not fit; one line.
    """
    module = module_of(run)
    size = module.data_size(run)
    parts = module.build_parts(run, size.classes, device=device)
    plan = module.plan(run, parts, device=device)
    length = Length(size.samples, size.steps_per_epoch, run.schedule.total_epochs)
    groups = describe_groups(parts.optimizer)
    if not measure:
        return Rehearsal(plan, length, groups, None, size.notes)
    average = None if run.ema_decay is None else Ema(parts.model, decay=run.ema_decay)
    if average is not None and isinstance(parts.task, LearnsFromAverage):
        parts.task.learn_from(average.module)
    cost = measure_cost(
        run,
        parts,
        plan,
        device=device,
        epochs=length.epochs,
        samples_on_cpu=module.samples_on_cpu(run),
    )
    return Rehearsal(plan, length, groups, cost, size.notes)


def load_trained(
    run: TrainingRun, checkpoint: Path, *, classes: Sequence[str], device: torch.device | str
) -> tuple[Any, str]:
    """Return a run's model in eval mode with all weights from a file, and the report of loading them.

    Raises:
        ValueError: if the file does not fit; heads of another number of classes do not either.
    """
    module = module_of(run)
    model = module.build_model(replace(run, model=run.model.without_weights()), classes)
    report = load_checkpoint(model, checkpoint)
    if report.loaded < report.total:
        raise ValueError(f"{checkpoint} does not fit these {len(classes)} classes: {'; '.join(report.notes)}")
    return model.eval().to(device), str(report)
