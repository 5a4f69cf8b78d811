"""Many trainings of small networks on one machine: processes side by side, shared batches.

A network of a hundred thousand parameters leaves a GPU waiting for the host, which launches a thousand kernels a step
and decodes the images. `side_by_side` gives every training a process; `write_batches` and `UseSharedBatches` decode
once what many trainings see.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from a2mamba.data import ClassificationBatch, SegmentationBatch
from a2mamba.engine import Hook, Interrupted, Trainer
from a2mamba.tasks import ClassificationRun, SegmentationRun, task_of

T = TypeVar("T")

PARTS = 8
"""Into how many parts `write_batches` cuts a run's batches."""


def side_by_side(calls: Sequence[Callable[[], T]], processes: int) -> Iterator[tuple[int, T | None]]:
    """Call each in a process of its own, so many at a time; yield (its number, its result) as they end.

    The result is None where the process failed: it has said why on stderr. All end when the iteration does.
    """
    # The server of forks imports once what all need, and has no thread and no CUDA context that a fork would break.
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["a2mamba.recipes", "a2mamba.analysis.throughput"])
    waiting = list(enumerate(calls))[::-1]
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                number, call = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_send, args=(call, sender))
                process.start()
                sender.close()  # the process has it; when that ends, the receiver hears of it
                running[receiver] = number, process
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for receiver in ready:
                number, process = running.pop(receiver)
                try:
                    result = receiver.recv()
                except EOFError:
                    result = None
                process.join()
                yield number, result
    finally:
        for _, process in running.values():
            process.terminate()  # a training saves where it is
        for _, process in running.values():
            process.join()


def _send(call: Callable[[], Any], sender: Any) -> None:
    torch.set_num_threads(1)
    with suppress(Interrupted):  # it was asked to end, and has saved
        sender.send(call())


def write_batches(run: ClassificationRun | SegmentationRun, folder: Path, part: int) -> int:
    """Write one of `PARTS` parts of the batches of all epochs, as the run's own loader makes them; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    loader: Any = task_of(run).prepare(run, device="cpu").loader
    steps, total = len(loader), len(loader) * run.schedule.total_epochs
    place, end = total * part // PARTS, total * (part + 1) // PARTS
    made = 0
    while place < end:
        epoch, first = divmod(place, steps)
        count = min(steps - first, end - place)
        files = [folder / f"{epoch}-{number}.pt" for number in range(first, first + count)]
        place += count
        if all(file.is_file() for file in files):
            continue
        loader.set_epoch(epoch)
        loader.skip(first * run.data.batch_size)
        for file, batch in zip(files, islice(loader, count), strict=True):
            torch.save(tuple(batch), file.with_suffix(".part"))
            os.replace(file.with_suffix(".part"), file)
            made += 1
    return made


class SharedBatches:
    """The batches that `write_batches` wrote, in the place of a run's loader: an `engine.ResumableSampler` too."""

    def __init__(self, folder: Path, task: str, *, steps: int) -> None:
        self.folder = folder
        self.batch: Any = ClassificationBatch if task == "classification" else SegmentationBatch
        self.steps = steps
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch, self.first = epoch, 0

    def skip(self, samples: int) -> None:
        """Leave out the first samples of the epoch."""
        self.first = samples // 32

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.first, self.steps):
            yield self.batch(*torch.load(self.folder / f"{self.epoch}-{number}.pt", weights_only=True))


class UseSharedBatches(Hook):
    """Puts `SharedBatches` in the place of a run's loader."""

    def __init__(self, folder: Path, task: str) -> None:
        self.folder, self.task = folder, task

    def before_fit(self, trainer: Trainer) -> None:
        """Replace it."""
        trainer.loader = SharedBatches(self.folder, self.task, steps=trainer.steps_per_epoch)
