"""Training a run of any task: its task's parts, joined to the engine and its hooks."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from torch import nn

from a2mamba.data.names import describe_class_difference
from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    CsvLogger,
    EarlyStoppingHook,
    Ema,
    EvaluationHook,
    FaultPolicy,
    Hook,
    ProgressHook,
    QuarantineHook,
    Schedule,
    ScheduleError,
    SignalHook,
    TensorBoardLogger,
    TimeLimitHook,
    Trainer,
    TrainingTask,
    WandbLogger,
    is_main_process,
    resolve_precision,
)
from a2mamba.files import replace_text
from a2mamba.recipes.stored import describe
from a2mamba.tasks import TrainingRun, task_of

Resume = Literal["never", "require", "auto"]
"""never: begin a new run; require: go on, and it is an error where there is nothing to; auto: go on, or begin"""


@runtime_checkable
class LearnsFromAverage(Protocol):
    """A task with a loss against the averaged model, such as MESA."""

    def learn_from(self, average: nn.Module) -> None:
        """Take the averaged model; its weights follow every step."""
        ...


@runtime_checkable
class ReplacesUndecodable(Protocol):
    """A loader that can go on over samples that cannot be decoded, such as `data.BatchLoader`."""

    @property
    def samples(self) -> int:
        """Samples in the data set."""
        ...

    def replace_undecodable(self) -> dict[str, str]:
        """Replace them from now on, and return where their names will be."""
        ...


class RunFile(Hook):
    """Writes run.json, the resolved run, when training begins or continues."""

    def __init__(self, output: Path, description: str) -> None:
        self.path = output / "run.json"
        self.description = description

    def before_fit(self, trainer: Trainer) -> None:
        """Write the file."""
        if is_main_process():
            replace_text(self.path, self.description)


def averaged(run: TrainingRun, losses: TrainingTask) -> Ema | None:
    """Return a run's averaged model, which begins where the model does; losses that learn from it get it."""
    if run.ema_decay is None:
        return None
    ema = Ema(losses.model, decay=run.ema_decay)
    if isinstance(losses, LearnsFromAverage):
        losses.learn_from(ema.module)
    return ema


def train(
    run: TrainingRun,
    output: Path,
    *,
    recipe: str,
    resume: Resume = "never",
    max_minutes: float | None = None,
    device: str,
    quiet: bool = False,
    hooks: Sequence[Hook] = (),
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
        hooks: called after the evaluation and before anything is logged or saved, so that metrics that they add are.

    Raises:
        ValueError: where configuration, data or a checkpoint do not fit; one line.
        TrainingError: where training cannot go on, a non-finite loss above all.
        Interrupted: after a request to stop, when everything was saved.
    """
    prepared = task_of(run).prepare(run, device=device)
    losses, optimizer, loader = prepared.parts.losses, prepared.parts.optimizer, prepared.loader
    description = describe(run, recipe, prepared.classes)
    manager = CheckpointManager(output / "checkpoints", keep_last=run.keep_checkpoints, best_metric=run.best_metric)

    def measure(model: nn.Module) -> Iterator[tuple[str, float]]:
        for name, value in prepared.evaluation.measure(model):
            # The row of an epoch has the training loss under "loss".
            yield ("eval_loss" if name == "loss" else name), value

    every: list[Hook] = [EvaluationHook(measure, every=run.evaluate_every), *hooks]
    if run.max_undecodable > 0 and isinstance(loader, ReplacesUndecodable):
        every.append(
            QuarantineHook(
                loader.replace_undecodable(),
                samples=loader.samples,
                largest_share=run.max_undecodable,
                path=output / "quarantine.json",
            )
        )
    every.append(CsvLogger(output / "metrics.csv"))
    if run.tensorboard:
        every.append(TensorBoardLogger(output / "tensorboard"))
    if run.wandb is not None:
        every.append(WandbLogger(run.wandb, output, json.loads(description)))
    if max_minutes is not None:
        every.append(TimeLimitHook(max_minutes))
    # The checkpoint hook refuses a folder of another run: only behind it may run.json be written.
    checkpoints = CheckpointHook(manager, every_minutes=run.checkpoint_minutes)
    every += [ProgressHook(quiet=quiet), SignalHook(), checkpoints, RunFile(output, description)]
    if run.patience is not None:
        every.append(EarlyStoppingHook(run.best_metric, patience=run.patience))
    steps = -(-len(loader) // prepared.accumulate)
    trainer = Trainer(
        losses,
        loader=loader,
        optimizer=optimizer,
        schedule=Schedule(optimizer, run.schedule, steps_per_epoch=steps),
        epochs=run.schedule.total_epochs,
        device=device,
        precision=resolve_precision(run.precision, device),
        clip_grad_norm=run.optimizer.clip_grad_norm,
        accumulate=prepared.accumulate,
        ema=averaged(run, losses),
        hooks=every,
        seed=run.seed,
        channels_last=run.channels_last,
        run=description,
        sync_batch_norm=run.sync_batch_norm,
        faults=FaultPolicy(folder=output / "faults"),
    )
    if resume != "never":
        newest = manager.latest()
        if newest is not None:
            _refuse_other_classes(newest[1]["run"], prepared.classes, source=newest[0])
            try:
                trainer.load_state_dict(newest[1], source=str(newest[0]))
            except ScheduleError as error:
                best = shlex.quote(str(newest[0].with_name("best.pt")))
                raise ScheduleError(
                    f"{error}; to train longer, begin a new run from the best checkpoint in another folder: replace "
                    f"--resume by model.checkpoint={best} --out FOLDER"
                ) from None
        elif resume == "require":
            raise ValueError(f"nothing to resume in {output / 'checkpoints'}; leave out --resume to start a new run")
    trainer.fit()
    return trainer


def _refuse_other_classes(description: str, classes: Sequence[str], *, source: Path) -> None:
    """Raise ValueError where a run to go on with learned other classes, or gave them other numbers.

    As many others fit its weights: their images would be learned under the wrong names.
    """
    stored = json.loads(description).get("classes")
    if stored is not None and list(stored) != list(classes):
        difference = describe_class_difference(stored, classes)
        raise ValueError(
            f"{source} is of a run with other classes than the data has now: {difference}; a run goes on with its own "
            f"data; begin a new one in another folder: replace --resume by --out FOLDER"
        )
