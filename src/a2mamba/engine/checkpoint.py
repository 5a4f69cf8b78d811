"""Checkpoints that survive a crash: written aside, forced to disk, renamed; verified on reading; never run code.

A checkpoint file is a torch file with one dict:

    format      "a2mamba-checkpoint-1"
    model       state dict of the model
    ema         state dict of the averaged model, or None
    optimizer   its state dict
    schedule    the numbers that define the learning-rate curve
    scaler      state of the gradient scaler; empty unless float16
    rng         states of the random generators
    progress    epoch (completed), step_in_epoch, step, samples_in_epoch (over all processes: the samplers' position),
                steps_per_epoch, world_size (it may be another one on resuming), sums (of the losses over the epoch's
                samples so far), counted (how many those are), history (JSON), epoch_open (whether the epoch's
                evaluation is still to be done; absent in older files)
    faults      skipped, in_a_row, recoveries: of steps that were not finite
    best        {"metric", "value", "epoch"}, or None
    run         the resolved run, JSON
    versions    name -> version

A checkpoint resumes with any number of processes.
It holds tensors, numbers, strings, lists and dicts only, so that `torch.load(weights_only=True)` reads it.
"""

from __future__ import annotations

import io
import logging
import os
import platform
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from a2mamba.engine.distributed import from_main_process, is_main_process
from a2mamba.files import parse_json, replace_file
from a2mamba.files.torch_file import read_torch_file

FORMAT = "a2mamba-checkpoint-1"
KEYS = ("model", "ema", "optimizer", "schedule", "scaler", "rng", "progress", "faults", "best", "run", "versions")

_log = logging.getLogger(__name__)
_NAME = re.compile(r"checkpoint-(\d{4,})(?:-(\d{6,}))?\.pt")


def save_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Writes `state` to `path`; at every moment `path` holds a whole file, the old one or the new one.

    Raises OSError, naming the file, when it cannot be written (disk full, no permission); the old file is then
    untouched and nothing is left beside it.
    """
    path = Path(path)

    refused: list[OSError] = []

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            torch.save(state, cast(BinaryIO, _Remembering(file, refused)))

    try:
        replace_file(path, write, durable=True)
    except (OSError, RuntimeError) as error:
        cause = refused[0] if refused else error
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause).splitlines()[0]
        raise OSError(f"cannot save the checkpoint {path}: {reason}; an earlier file of this name is intact") from error


class _Remembering(io.RawIOBase):
    """Passes bytes on to a file and keeps what that raises: torch's writer puts an error of its own in its place."""

    def __init__(self, file: BinaryIO, refused: list[OSError]) -> None:
        self._file = file
        self._refused = refused

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._refused.append(error)
            raise


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """The dict in a checkpoint file, tensors on the CPU. No code from the file is run.

    Raises ValueError, one line, for a file that is missing, truncated, damaged (every record's CRC-32 is verified), not
    a checkpoint of this package, or that holds anything other than plain data. Whether its state fits a run is for
    `Trainer.load_state_dict` to say.
    """
    path = Path(path)
    state = read_torch_file(path, legacy=False).content
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if found != FORMAT:
        raise ValueError(f"{path} is not a training checkpoint of a2mamba: format {found!r}, expected {FORMAT!r}")
    missing = [key for key in KEYS if key not in state]
    if missing:
        raise ValueError(f"checkpoint {path} lacks {', '.join(missing)}")
    if not isinstance(state["run"], str):
        raise ValueError(f"checkpoint {path}: run is {type(state['run']).__name__}, expected text")
    parse_json(state["run"], f"checkpoint {path}: run")
    return state


def versions() -> dict[str, str]:
    """What a checkpoint says about the software that wrote it."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with the build, unlike metadata
    for name in ("a2mamba", "timm", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # used from a source folder
            found[name] = "not installed"
    return found


class CheckpointManager:
    """The checkpoints of one run in one folder.

        checkpoint-0003.pt          after 3 epochs
        checkpoint-0003-000120.pt   after 3 epochs and 120 steps of the next
        best.pt                     the one with the highest `best_metric`
        last.pt                     the newest

    The newest `keep_last` numbered files stay, and best.pt always. best.pt and last.pt are hard links where the file
    system has them, else copies. The folder is made by the first save.
    """

    def __init__(self, directory: str | Path, *, keep_last: int = 2, best_metric: str = "top1") -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last is {keep_last}; at least 1 checkpoint has to be kept")
        self.directory = Path(directory)
        self.keep_last = keep_last
        self.best_metric = best_metric

    def save(self, state: dict[str, Any], *, is_best: bool = False) -> Path:
        """Writes the state under the name of its position, moves last.pt (and best.pt, if best), removes old files.

        Numbered files of later positions are removed too: training went back and they belong to a history that it left.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        # Of a process that was killed while it wrote; before writing, as the space may be needed.
        for leftover in self.directory.glob(".*.pt.tmp"):
            leftover.unlink(missing_ok=True)
        position = (state["progress"]["epoch"], state["progress"]["step_in_epoch"])
        path = self.directory / (
            f"checkpoint-{position[0]:04d}" + (f"-{position[1]:06d}" if position[1] else "") + ".pt"
        )
        save_checkpoint(path, state)
        _point(self.directory / "last.pt", path)
        if is_best:
            _point(self.directory / "best.pt", path)
        numbered = self._numbered()
        earlier = [entry for entry in numbered if entry[0] <= position]
        for entry in numbered:
            if entry not in earlier[: self.keep_last]:
                entry[1].unlink(missing_ok=True)
        return path

    def latest(self, *, good: bool = False) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that can be read, with its content; None where there is none at all.

        With `good`, those are passed over that were taken among steps that were not finite.
        A damaged file is passed over with a logged warning; ValueError when there are files and every one is damaged.
        With several processes all have to call it: the first one chooses, the others read the same file.
        """
        newest: tuple[Path, dict[str, Any]] | None = None
        error: ValueError | None = None
        if is_main_process():
            try:
                newest = self._newest(good)
            except ValueError as found:
                error = found
        name, problem = from_main_process(
            (None if newest is None else newest[0].name, None if error is None else str(error))
        )
        if problem is not None:
            raise error or ValueError(problem)
        if name is None or newest is not None:
            return newest
        try:
            return self.directory / name, load_checkpoint_file(self.directory / name)
        except ValueError as failure:
            raise ValueError(f"{failure}; every machine of the run needs the same folder of checkpoints") from None

    def last_good(self) -> dict[str, Any]:
        """The newest state that was not taken among steps that were not finite; where all were, the newest.

        With several processes all have to call it. ValueError where the checkpoints have gone.
        """
        newest = self.latest(good=True) or self.latest()
        if newest is None:
            raise ValueError(f"the checkpoints in {self.directory} were removed while the run needed them")
        return newest[1]

    def _newest(self, good: bool) -> tuple[Path, dict[str, Any]] | None:
        candidates = [path for _, path in self._numbered()]
        candidates += [path for path in (self.directory / "last.pt", self.directory / "best.pt") if path.exists()]
        damaged = 0
        for path in candidates:
            try:
                state = load_checkpoint_file(path)
            except ValueError as error:
                _log.warning("%s; going back to the checkpoint before", error)
                damaged += 1
                continue
            faults = state["faults"]  # checked when it is loaded
            if not (good and isinstance(faults, dict) and faults.get("in_a_row")):
                return path, state
        if damaged and damaged == len(candidates):
            raise ValueError(f"none of the {len(candidates)} checkpoints in {self.directory} can be read")
        return None

    def _numbered(self) -> list[tuple[tuple[int, int], Path]]:
        """((epochs, steps of the next), path) of every numbered file, newest position first."""
        if not self.directory.is_dir():
            return []
        matches = [(_NAME.fullmatch(path.name), path) for path in self.directory.iterdir()]
        found = [((int(match[1]), int(match[2] or 0)), path) for match, path in matches if match]
        return sorted(found, reverse=True)


def _point(name: Path, target: Path) -> None:
    """Makes `name` the same file as `target`, atomically."""

    def write(temporary: Path) -> None:
        try:
            os.link(target, temporary)
        except OSError:  # a file system without hard links, such as FAT and some network mounts
            shutil.copyfile(target, temporary)

    replace_file(name, write, durable=True)
