"""A DataLoader whose errors stay readable and whose iteration leaves the main process's random state alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from a2mamba.data.images import UndecodableImageError
from a2mamba.data.samplers import EpochSampler

T = TypeVar("T")
Batch = TypeVar("Batch")


class _ErrorsAsValues(Dataset[Any]):
    """Returns an undecodable sample's error instead of raising it.

    torch rebuilds an exception that leaves a worker with the worker's traceback as its message; as a value it reaches
    the main process with its one line and its file name.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.dataset[key]
        except UndecodableImageError as error:
            return error


class _Collate(Generic[T, Batch]):
    def __init__(self, collate: Callable[[Sequence[T]], Batch]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Any]) -> Batch | UndecodableImageError:
        for sample in samples:
            if isinstance(sample, UndecodableImageError):
                return sample
        return self.collate(samples)


class BatchLoader(DataLoader[Any], Generic[Batch]):
    """Batches of a data set in the order of an `EpochSampler`.

    Differs from torch's loader in three ways: an undecodable image raises `UndecodableImageError` with one line,
    whatever the number of workers; starting an iterator draws nothing from torch's global generator, so a run resumed
    in mid-epoch sees the random numbers of an uninterrupted one; and `set_epoch` and `skip` are at hand.

    Args:
        dataset: map-style, indexed with `SampleKey`: a `SeededDataset` as a rule.
        sampler: the keys of this process.
        batch_size: samples in a batch.
        collate: a list of samples -> one batch; must be picklable.
        drop_last: leave out an incomplete last batch.
        workers: loader processes; 0 loads in the main process.
        pin_memory: copy batches to page-locked memory, for an accelerator.
    """

    def __init__(
        self,
        dataset: Dataset[T],
        sampler: EpochSampler,
        *,
        batch_size: int,
        collate: Callable[[Sequence[T]], Batch],
        drop_last: bool,
        workers: int,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            _ErrorsAsValues(dataset),
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_Collate(collate),
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),
        )
        self.epoch_sampler = sampler

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; see `EpochSampler.set_epoch`."""
        self.epoch_sampler.set_epoch(epoch)

    def skip(self, samples: int) -> None:
        """Leave out the first samples of this process in the current epoch; see `EpochSampler.skip`."""
        self.epoch_sampler.skip(samples)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        error: UndecodableImageError | None = None
        for batch in super().__iter__():
            if isinstance(batch, UndecodableImageError):
                error = batch
                break
            yield batch
        if error is not None:
            # The error's traceback holds on to this loader. Workers that are left to the garbage collector no longer
            # hear the request to end, and torch waits five seconds for each; so they end here.
            self._iterator = None
            try:
                raise error
            finally:
                del error, batch  # this frame is in the traceback, too: without references it makes no cycle
