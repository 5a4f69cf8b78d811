"""What the loop needs of a loader, and how it begins inside an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler


class Loader(Protocol):
    """What the loop needs of a DataLoader: the same number of batches in every epoch, and that number.

    Exact resuming inside an epoch asks a little more of it. Where it (or its `sampler`, or `batch_sampler`) is a
    `ResumableSampler`, only the rest of the epoch is drawn; the randomness of a sample must then not depend on which
    samples the same worker process made before (in the main process it is seeded for each step anyway). Any other
    loader draws the epoch's used batches again and drops them; it must take all its randomness from the global
    generators, that is, have no `generator` and no persistent workers.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


@runtime_checkable
class ResumableSampler(Protocol):
    """A sampler whose order is a function of its seed and the epoch, and that can begin inside an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration that of this epoch, from its beginning."""
        ...

    def skip(self, samples: int) -> None:
        """Makes the iteration leave out the first `samples` samples that this process has in the epoch."""
        ...


def begin_at(loader: Loader, *, epoch: int, samples: int) -> bool:
    """Sets the loader's sampler to a position; whether it could begin inside the epoch."""
    samplers = [loader, *(getattr(loader, name, None) for name in ("sampler", "batch_sampler"))]
    for sampler in samplers:
        if isinstance(sampler, ResumableSampler):
            sampler.set_epoch(epoch)
            sampler.skip(samples)
            return True
    for sampler in samplers:
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(epoch)
    return False


def pin_memory(loader: Loader) -> None:
    """Lets a DataLoader put its batches into page-locked memory: copies to a GPU then overlap with its work."""
    if isinstance(loader, DataLoader):
        loader.pin_memory = True
