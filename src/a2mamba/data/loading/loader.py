"""A DataLoader whose errors stay readable and whose iteration leaves the main process's random state alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from a2mamba.data.images import UndecodableImageError
from a2mamba.data.loading.samplers import EpochSampler, SampleKey
from a2mamba.data.loading.seeded import MapStyle, SeededDataset

T = TypeVar("T")
Batch = TypeVar("Batch")

NEIGHBORS = 64
"""How many samples after an undecodable one are tried in its place."""


class _Loaded(NamedTuple):
    """A sample, and (file, reason) of those that could not be decoded before it; strings survive any worker."""

    sample: Any
    failures: list[tuple[str, str]]


class _Decoding(Dataset[Any]):
    """Turns an undecodable sample into a value: its error, or its neighbor.

    torch rebuilds an exception that leaves a worker with the worker's traceback as its message; as a value it reaches
    the main process with its one line and its file name.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset
        self.replace = False

    def __getitem__(self, key: Any) -> _Loaded | UndecodableImageError:
        failures: list[tuple[str, str]] = []
        for step in range(NEIGHBORS + 1 if self.replace else 1):
            try:
                return _Loaded(self.dataset[self._neighbor(key, step)], failures)
            except UndecodableImageError as error:  # the next sample is the answer to it
                failures.append((error.path, error.reason))
                last = error
        return last

    def _neighbor(self, key: Any, step: int) -> Any:
        """The sample `step` places after that of `key` in the data set, in the same epoch."""
        if step == 0:
            return key
        dataset: Any = self.dataset  # torch's Dataset type declares no length
        if isinstance(key, SampleKey):
            return key._replace(index=(key.index + step) % len(dataset))
        return (key + step) % len(dataset)


class _Collate(Generic[T, Batch]):
    def __init__(self, collate: Callable[[Sequence[T]], Batch]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[Any]) -> _Loaded | UndecodableImageError:
        for sample in samples:
            if isinstance(sample, UndecodableImageError):
                return sample
        failures = [failure for loaded in samples for failure in loaded.failures]
        return _Loaded(self.collate([loaded.sample for loaded in samples]), failures)


class BatchLoader(DataLoader[Any], Generic[Batch]):
    """Batches of a data set in the order of an `EpochSampler`.

    Differs from torch's loader in four ways: an undecodable image raises `UndecodableImageError` with one line,
    whatever the number of workers, or is replaced and put on a list (`replace_undecodable`); starting an iterator draws
    nothing from torch's global generator, so a run resumed in mid-epoch sees the random numbers of an uninterrupted
    one; and `set_epoch` and `skip` are at hand.

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
            _Decoding(dataset),
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
        self.quarantine: dict[str, str] = {}

    @property
    def samples(self) -> int:
        """Samples in the data set, over all processes."""
        dataset: Any = self.dataset
        return len(dataset.dataset)

    def replace_undecodable(self) -> dict[str, str]:
        """From the next iteration on, put another sample in the place of one that cannot be decoded.

        The other one is its nearest decodable successor in the data set, of at most `NEIGHBORS`, augmented as in any
        visit in this epoch: a function of the data alone, so that batches keep their size and a resumed run sees the
        same. For training; an evaluation over other samples than it says would not be one.

        Returns:
            File name -> reason of every sample that was replaced in a batch that was handed out, growing while the
            loader is used. The same object each time.
        """
        dataset: Any = self.dataset
        assert isinstance(dataset, _Decoding)
        assert self._iterator is None, "worker processes have a copy of the data set: call this before iterating"
        dataset.replace = True
        return self.quarantine

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; see `EpochSampler.set_epoch`."""
        self.epoch_sampler.set_epoch(epoch)

    def skip(self, samples: int) -> None:
        """Leave out the first samples of this process in the current epoch; see `EpochSampler.skip`."""
        self.epoch_sampler.skip(samples)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch's is a class of its own
        error: UndecodableImageError | None = None
        for loaded in super().__iter__():
            if isinstance(loaded, UndecodableImageError):
                error = loaded
                break
            self.quarantine.update(loaded.failures)
            yield loaded.sample
        if error is not None:
            # The error's traceback holds on to this loader. Workers that are left to the garbage collector no longer
            # hear the request to end, and torch waits five seconds for each; so they end here.
            self._iterator = None
            try:
                raise error
            finally:
                del error, loaded  # this frame is in the traceback, too: without references it makes no cycle


def evaluation_batches(
    dataset: MapStyle[T],
    *,
    batch_size: int,
    collate: Callable[[Sequence[T]], Batch],
    workers: int,
    rank: int,
    world_size: int,
    pin_memory: bool,
) -> BatchLoader[Batch]:
    """The batches of a data set in a fixed order, every sample exactly once over all processes."""
    sampler = EpochSampler(len(dataset), shuffle=False, seed=0, rank=rank, world_size=world_size, remainder="keep")
    return BatchLoader(
        SeededDataset(dataset, 0),
        sampler,
        batch_size=batch_size,
        collate=collate,
        drop_last=False,
        workers=workers,
        pin_memory=pin_memory,
    )
