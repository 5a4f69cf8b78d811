"""A written file against the network that it was written from: differences and speeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from a2mamba.export.format import Run

PIXELS_THAT_DIFFER = 1e-4
"""Share of the pixels of class maps that may have another class: where two logits are equal but for rounding."""
MEASURED_RUNS, MEASURED_SECONDS = 10, 10.0


@dataclass(frozen=True)
class Comparison:
    """What running the file beside the network has shown."""

    difference: float
    """largest difference, relative to the largest value of the network's output; of class maps, share of the pixels;
    of detections, see `export.matching`"""
    file_ms: float
    """median time of the file for one image"""
    eager_ms: float
    """median time of the network for one image"""


class ExportError(RuntimeError):
    """A file that does not compute what the network does; it was not kept."""

    exit_status = 1


Difference = Callable[[list[np.ndarray], list[np.ndarray]], float]
"""Of the outputs of a file from those of the network"""


def largest_difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Return the largest difference of any output, see `Comparison`."""
    return max(map(_difference, found, expected))


def compare(run: Run, eager: Run, batches: Sequence[np.ndarray], difference: Difference = largest_difference) -> float:
    """Return the largest difference between two ways to compute the same, over several batches.

    Raises:
        ExportError: other shapes, or values that are not finite.
    """
    worst = 0.0
    for batch in batches:
        found, expected = run(batch), eager(batch)
        if [each.shape for each in found] != [each.shape for each in expected]:
            raise ExportError(
                f"the file returns {[each.shape for each in found]}, the network {[each.shape for each in expected]}"
            )
        worst = max(worst, difference(found, expected))
    return worst


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if np.issubdtype(expected.dtype, np.integer):
        return float(np.mean(found != expected))
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        raise ExportError("the file or the network returns values that are not finite")
    return float(np.abs(found - expected).max() / max(float(np.abs(expected).max()), 1e-12))


def measure(run: Run, eager: Run, batch: np.ndarray) -> tuple[float, float]:
    """Return the median times in milliseconds of both, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    while len(times[0]) < MEASURED_RUNS and (not times[0] or time.perf_counter() - started < MEASURED_SECONDS):
        for each, taken in zip((run, eager), times, strict=True):
            before = time.perf_counter()
            each(batch)
            taken.append(1e3 * (time.perf_counter() - before))
    return float(np.median(times[0])), float(np.median(times[1]))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
