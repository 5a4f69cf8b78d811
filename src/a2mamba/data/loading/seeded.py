"""Random augmentation that depends on the sample and the epoch, and on nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from a2mamba.data.loading.samplers import SampleKey

T_co = TypeVar("T_co", covariant=True)

_STREAM = 2  # see samplers._STREAM


@contextmanager
def seeded(*entropy: int) -> Iterator[None]:
    """Seed python's, numpy's and torch's global CPU generators inside the block; put their states back after it.

    Args:
        entropy: integers of 0 or more; together they choose the random stream.
    """
    words = np.random.SeedSequence((_STREAM, *entropy)).generate_state(4)
    python_state = random.getstate()
    # The legacy global generator is the one that augmentation libraries draw from.
    numpy_state = np.random.get_state()  # noqa: NPY002 - as said above
    # torch.manual_seed would also reseed the accelerator, which belongs to the model.
    torch_state = torch.default_generator.get_state()
    try:
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))  # noqa: NPY002 - as said above
        torch.default_generator.manual_seed(int(words[2]) << 32 | int(words[3]))
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002 - as said above
        torch.default_generator.set_state(torch_state)


class MapStyle(Protocol[T_co]):
    """A data set with a length, which torch's ``Dataset`` does not declare."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


class SeededDataset(Dataset[T_co]):
    """A data set whose random transforms are a function of (seed, epoch, index).

    The result does not depend on the number of loader workers, on the order of visits or on where a run was resumed,
    and the caller's random states are untouched.

    Args:
        dataset: a map-style data set; indexed with plain integers.
        seed: not negative.

    Raises:
        ValueError: a negative seed.
    """

    def __init__(self, dataset: MapStyle[T_co], seed: int) -> None:
        if seed < 0:
            raise ValueError(f"seed={seed}: expected 0 or more")
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey | int) -> T_co:
        """The sample of a `SampleKey`; a plain index means epoch 0."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a data set with {len(self)} samples")
        with seeded(self.seed, epoch, index):
            return self.dataset[index]
