from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np
import pytest

from a2mamba.data import GroupedSampler

GROUPS = np.array([0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1])  # 6 of 0, 17 of 1


def sampler(**change: Any) -> GroupedSampler:
    return GroupedSampler(**{"groups": GROUPS, "batch_size": 4, "seed": 3, **change})


def steps(samplers: list[GroupedSampler], total: int) -> list[list[int]]:
    """What all processes visit in each step."""
    shares = [[key.index for key in one] for one in samplers]
    each = total // len(shares)
    return [list(chain(*(share[at : at + each] for share in shares))) for at in range(0, len(shares[0]), each)]


@pytest.mark.parametrize("remainder", ["pad", "drop"])
def test_every_step_is_of_one_group(remainder: Any) -> None:
    one = sampler(remainder=remainder)
    for epoch in range(5):
        one.set_epoch(epoch)
        visited = steps([one], 4)
        assert all(len(set(GROUPS[step])) == 1 for step in visited)
        assert {int(GROUPS[step[0]]) for step in visited} == {0, 1}
        assert len(visited) == {"pad": 2 + 5, "drop": 1 + 4}[remainder]
        assert len(one) == one.samples_per_epoch == 4 * len(visited)


def test_padding_visits_all_and_dropping_visits_once() -> None:
    padded = [key.index for key in sampler()]
    assert set(padded) == set(range(23))
    dropped = [key.index for key in sampler(remainder="drop")]
    assert len(dropped) == len(set(dropped)) == 20


def test_a_group_smaller_than_a_step_fills_it() -> None:
    groups = [0, 1, 1, 1, 1, 1, 1]
    visited = steps([GroupedSampler(groups, batch_size=3, seed=0)], 3)
    assert sorted(map(sorted, visited))[0] == [0, 0, 0]
    assert sorted(chain(*visited))[3:] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("world_size", [2, 4])
def test_steps_are_the_same_sets_for_any_number_of_processes(world_size: int) -> None:
    alone = steps([sampler()], 4)
    together = steps([sampler(rank=rank, world_size=world_size) for rank in range(world_size)], 4)
    assert [sorted(step) for step in together] == [sorted(step) for step in alone]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        one = sampler(seed=seed)
        one.set_epoch(epoch)
        keys = list(one)
        assert {key.epoch for key in keys} == {epoch}
        return tuple(key.index for key in keys)

    assert order(1, 2) == order(1, 2)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


def test_groups_are_mixed_over_the_epoch() -> None:
    """Not all of one group first."""
    orders = set()
    for epoch in range(6):
        one = sampler()
        one.set_epoch(epoch)
        orders.add(tuple(int(GROUPS[step[0]]) for step in steps([one], 4)))
    assert len(orders) > 2


@pytest.mark.parametrize("world_size", [1, 2])
def test_resumed_is_the_tail_of_uninterrupted(world_size: int) -> None:
    for rank in range(world_size):
        one = sampler(rank=rank, world_size=world_size)
        one.set_epoch(2)
        whole = list(one)
        for done in range(len(whole) + 1):
            resumed = sampler(rank=rank, world_size=world_size)
            resumed.set_epoch(2)
            resumed.skip(done)
            assert list(resumed) == whole[done:]
            assert len(resumed) == len(whole) - done
    one.set_epoch(3)
    assert len(list(one)) == one.samples_per_epoch


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"batch_size": 3, "world_size": 2},
        {"groups": []},
        {"seed": -1},
        {"rank": 1},
        {"remainder": "keep"},
        {"batch_size": 18, "remainder": "drop"},
    ],
)
def test_bad_arguments(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|needs|no group"):
        sampler(**change)
