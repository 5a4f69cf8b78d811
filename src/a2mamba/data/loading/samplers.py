"""Which samples an epoch visits, in which order, on which process: a pure function of (seed, epoch, rank)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Sampler

# Separates this random stream from `SeededDataset`'s: numpy pads entropy with zeros, so (seed, epoch) alone would equal
# (seed, epoch, 0).
_STREAM = 1


class SampleKey(NamedTuple):
    """One visit to one sample; the epoch makes its augmentation differ from the previous visit's."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, a search that no one needs in a key


class EpochSampler(Sampler[SampleKey]):
    """The keys of one epoch for one process.

    The order of all samples is fixed by (seed, epoch); process `rank` takes positions rank, rank + world_size, ...
    Batch s of every process together is therefore the same set of samples for any number of processes, as long as the
    total batch is the same.

    Args:
        length: number of samples in the data set.
        shuffle: a new permutation every epoch, or the natural order.
        seed: not negative.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        remainder: what to do when `length` is no multiple of `world_size`. "drop" leaves out the last few samples of
            the epoch's order and "pad" visits its first few a second time: both give every process the same number, as
            training needs. "keep" visits each sample exactly once and lets counts differ by one, for evaluation.

    Raises:
        ValueError: for values out of range, or a data set that leaves a process without samples in training.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        remainder: Literal["drop", "pad", "keep"] = "drop",
    ) -> None:
        if length < 1:
            raise ValueError(f"length={length}: a sampler needs at least one sample")
        if seed < 0:
            raise ValueError(f"seed={seed}: expected 0 or more")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}, world_size={world_size}: expected 0 <= rank < world_size")
        if remainder not in ("drop", "pad", "keep"):
            raise ValueError(f"remainder={remainder!r}: expected 'drop', 'pad' or 'keep'")
        if remainder == "drop" and length < world_size:
            raise ValueError(f"{length} samples cannot be divided among {world_size} processes; use fewer processes")
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.remainder = remainder
        self.epoch = 0
        self._skipped = 0

    @property
    def samples_per_epoch(self) -> int:
        """Samples of this process in a whole epoch, whatever was skipped."""
        share, rest = divmod(self.length, self.world_size)
        if self.remainder == "drop" or rest == 0:
            return share
        if self.remainder == "pad":
            return share + 1
        return share + (self.rank < rest)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (0, 1, ...) of the next iteration and forget what was skipped.

        Raises:
            ValueError: a negative epoch.
        """
        if epoch < 0:
            raise ValueError(f"epoch={epoch}: expected 0 or more")
        self.epoch = epoch
        self._skipped = 0

    def skip(self, samples: int) -> None:
        """Leave out the first `samples` of this process in the current epoch: resuming where a run had stopped.

        Call it after `set_epoch`; it holds until the next `set_epoch`.

        Raises:
            ValueError: a negative number, or more than the epoch has.
        """
        if not 0 <= samples <= self.samples_per_epoch:
            raise ValueError(f"cannot skip {samples} samples of an epoch with {self.samples_per_epoch}")
        self._skipped = samples

    def __len__(self) -> int:
        return self.samples_per_epoch - self._skipped

    def __iter__(self) -> Iterator[SampleKey]:
        if self.shuffle:
            generator = np.random.default_rng((_STREAM, self.seed, self.epoch))
            order = generator.permutation(self.length)
        else:
            order = np.arange(self.length)
        positions = self.rank + self.world_size * np.arange(self._skipped, self.samples_per_epoch)
        # The modulus acts only for "pad", where positions run past the end.
        for index in order[positions % self.length].tolist():
            yield SampleKey(self.epoch, index)


class RepeatedSampler(EpochSampler):
    """Epochs of a fixed number of samples, cut from an endless sequence of permutations of the data set.

    For protocols that count iterations: an epoch is a stretch of the run, whatever the size of the data set is, and
    every sample is visited once before any is visited again. Deterministic and divided among processes as
    `EpochSampler` is. The epoch in a key is the number of the permutation, so that no two visits to one sample have the
    same augmentation.

    Args:
        length: number of samples in the data set.
        samples_per_epoch: samples of all processes together in one epoch; a multiple of `world_size`.
        seed: not negative.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.

    Raises:
        ValueError: for values out of range.
    """

    def __init__(self, length: int, *, samples_per_epoch: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if samples_per_epoch < 1 or samples_per_epoch % world_size:
            raise ValueError(f"samples_per_epoch={samples_per_epoch}: expected a multiple of world_size={world_size}")
        super().__init__(length, shuffle=True, seed=seed, rank=rank, world_size=world_size, remainder="keep")
        self.total = samples_per_epoch

    @property
    def samples_per_epoch(self) -> int:
        """Samples of this process in a whole epoch, whatever was skipped."""
        return self.total // self.world_size

    def __iter__(self) -> Iterator[SampleKey]:
        permuted, order = -1, np.arange(self.length)
        for position in range(self._skipped, self.samples_per_epoch):
            visit, place = divmod(self.epoch * self.total + self.rank + self.world_size * position, self.length)
            if visit != permuted:
                permuted, order = visit, np.random.default_rng((_STREAM, self.seed, visit)).permutation(self.length)
            yield SampleKey(visit, int(order[place]))


class GroupedSampler(EpochSampler):
    """Steps whose samples all belong to one group, wide images or others, say: less padding, less memory.

    The samples that all processes use together in one step are of one group, so that step s is the same set of samples
    for any number of processes, as with `EpochSampler`. Order inside the groups and order of the steps are new in
    every epoch, and every epoch has the same number of steps.

    Args:
        groups: the group of each sample, whole numbers.
        batch_size: samples of all processes together in one step, a multiple of `world_size`.
        seed: not negative.
        rank: this process, 0 <= rank < world_size.
        world_size: number of processes.
        remainder: what to do with the last samples of a group's order that make no whole step. "pad" fills the step up
            with the first ones of that order, a second time (in a group smaller than a step, more often): every sample
            is visited. "drop" leaves them out of this epoch.

    Raises:
        ValueError: for values out of range, or no whole step.
    """

    def __init__(
        self,
        groups: Sequence[int] | np.ndarray,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        remainder: Literal["drop", "pad"] = "pad",
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size={batch_size}: expected a multiple of world_size={world_size}")
        if remainder not in ("drop", "pad"):
            raise ValueError(f"remainder={remainder!r}: expected 'drop' or 'pad'")
        groups = np.asarray(groups)
        super().__init__(len(groups), shuffle=True, seed=seed, rank=rank, world_size=world_size, remainder=remainder)
        self.batch_size = batch_size
        self.members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        if self.samples_per_epoch == 0:
            sizes = ", ".join(str(len(members)) for members in self.members)
            raise ValueError(f"batch_size={batch_size}: no group is as large; their sizes are {sizes}")

    @property
    def samples_per_epoch(self) -> int:
        """Samples of this process in a whole epoch, whatever was skipped."""
        return sum(self._steps(len(members)) for members in self.members) * self.batch_size // self.world_size

    def __iter__(self) -> Iterator[SampleKey]:
        generator = np.random.default_rng((_STREAM, self.seed, self.epoch))
        steps = []
        for members in self.members:
            # np.resize cuts the order off, or begins it anew where it is too short.
            order = np.resize(generator.permutation(members), self._steps(len(members)) * self.batch_size)
            steps.append(order.reshape(-1, self.batch_size))
        visits = generator.permutation(np.concatenate(steps))[:, self.rank :: self.world_size].ravel()
        for index in visits[self._skipped :].tolist():
            yield SampleKey(self.epoch, index)

    def _steps(self, samples: int) -> int:
        whole, rest = divmod(samples, self.batch_size)
        return whole + (rest > 0 and self.remainder == "pad")
