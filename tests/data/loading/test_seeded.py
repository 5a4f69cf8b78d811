from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from a2mamba.data import SampleKey, SeededDataset

Draw = tuple[int, float, float, float]


class Draws(Dataset[Draw]):
    """The index, and one number of each global generator."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Draw:
        if index == 4:
            raise KeyError(index)
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def test_every_generator_depends_on_seed_epoch_and_index() -> None:
    draws = [
        SeededDataset(Draws(), seed)[SampleKey(epoch, index)]
        for seed in range(2)
        for epoch in range(2)
        for index in range(3)
    ]
    for generator in (1, 2, 3):
        assert len({draw[generator] for draw in draws}) == len(draws)


def test_result_does_not_depend_on_history() -> None:
    dataset = SeededDataset(Draws(), 4)
    first = dataset[SampleKey(1, 2)]
    random.random()
    torch.rand(3)
    np.random.rand(2)
    for index in range(4):
        dataset[SampleKey(0, index)]
    assert dataset[SampleKey(1, 2)] == first


def test_plain_index_is_epoch_zero() -> None:
    dataset = SeededDataset(Draws(), 4)
    assert dataset[3] == dataset[SampleKey(0, 3)] == dataset[-2]
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize("index", [1, 4])
def test_states_of_the_caller_are_restored_even_after_an_error(index: int) -> None:
    def next_numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed_all() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed_all()
    expected = next_numbers()
    seed_all()
    dataset = SeededDataset(Draws(), 0)
    if index == 4:
        with pytest.raises(KeyError):
            dataset[index]
    else:
        dataset[index]
    assert next_numbers() == expected


def test_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed=-1"):
        SeededDataset(Draws(), -1)
