"""The held-out split of a run, and how a model is measured on it: the same in training and from the command line."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from a2mamba.data import BatchLoader
from a2mamba.data.names import some
from a2mamba.engine import is_main_process, merge_metrics, resolve_precision
from a2mamba.evaluation import Metric
from a2mamba.tasks.run import TrainingRun

_log = logging.getLogger(__name__)

RunT = TypeVar("RunT", bound=TrainingRun)
BatchT = TypeVar("BatchT")

GRID_ROWS = 8
"""Images that are shown of an evaluation."""


class Evaluation(ABC, Generic[RunT, BatchT]):
    """Data and metrics of a run. Made once for a run: what is wrong with the data shows then, and is read once.

    Args:
        run: precision and memory format count here, beside what the task reads of it.
        classes: names, in the order of their indices.
        loader: of the held-out split; of several processes each has its share.
        device: where the model is.
    """

    def __init__(self, run: RunT, classes: Sequence[str], loader: BatchLoader[BatchT], device: torch.device | str):
        self.run = run
        self.classes = list(classes)
        self.loader = loader
        self.device = torch.device(device)
        self._said_absent = False

    def __call__(
        self, model: nn.Module, *, track: Callable[[BatchLoader[BatchT]], Iterable[BatchT]] = iter
    ) -> dict[str, float]:
        """Return metrics in percent, measured as during training: eval mode, no gradients, the run's precision.

        Args:
            model: on the device.
            track: wraps the loader, to show progress.

        Raises:
            ValueError: where an image cannot be decoded, or does not fit its labels; a precision that the device lacks.
        """
        model.eval()
        with torch.no_grad(), resolve_precision(self.run.precision, self.device).autocast():
            return dict(self._results(self.update(model, track(self.loader), detailed=True)))

    def measure(self, model: nn.Module) -> Iterator[tuple[str, float]]:
        """Yield the metrics of a model, in the mode and precision that the caller has set: what training records.

        Of several processes each looks at its share; the first one yields the results of all, the others nothing.
        """
        return self._results(self.update(model, self.loader, detailed=False))

    def _results(self, metrics: Sequence[Metric]) -> Iterator[tuple[str, float]]:
        merge_metrics(metrics)
        if is_main_process():
            for metric in metrics:
                yield from metric.results()
            self._say_absent(self.absent_classes())

    def _say_absent(self, absent: Sequence[str]) -> None:
        """Say once which classes the split says nothing about; where it shows none at all, the metric has said so."""
        if 0 < len(absent) < len(self.classes) and not self._said_absent:
            self._said_absent = True
            text = "the evaluation split shows nothing of %d of %d classes (%s); its mean is over the others"
            _log.warning(text, len(absent), len(self.classes), some(absent))

    def absent_classes(self) -> list[str]:
        """Return the classes that did not occur in the split, once it was looked at; none where loading says them."""
        return []

    @abstractmethod
    def update(self, model: nn.Module, batches: Iterable[BatchT], *, detailed: bool) -> Sequence[Metric]:
        """Return fresh metrics of a model's predictions for batches.

        Args:
            model: in eval mode.
            batches: of the loader.
            detailed: measure and keep what the methods below tell.
        """

    @property
    @abstractmethod
    def images(self) -> int:
        """Number of images of the last call."""

    def class_table(self) -> list[dict[str, Any]]:
        """Return a row of numbers for each class."""
        raise self._has_no("table of classes")

    def confusion(self) -> list[list[int]]:
        """Return counts, [true class][predicted class]."""
        raise self._has_no("confusion matrix")

    def write_images(self, model: nn.Module, folder: Path) -> Path:
        """Write images of truth and prediction into a folder; return what was written."""
        raise self._has_no("images of results")

    def write_results(self, path: Path) -> list[Path]:
        """Write the predictions in the format of the data set's own evaluation; return the files."""
        raise self._has_no("result format")

    def _has_no(self, what: str) -> ValueError:
        return ValueError(f"{self.run.task} has no {what}")
