from __future__ import annotations

from itertools import chain
from typing import Any

import pytest

from a2mamba.data import EpochSampler, RepeatedSampler, SampleKey


def indices(sampler: EpochSampler) -> list[int]:
    return [key.index for key in sampler]


def test_permutation_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(50, shuffle=True, seed=seed)
        sampler.set_epoch(epoch)
        return indices(sampler)

    assert sorted(order(1, 3)) == list(range(50))
    assert order(1, 3) == order(1, 3)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_keys_carry_the_epoch() -> None:
    sampler = EpochSampler(4, shuffle=False, seed=0)
    sampler.set_epoch(7)
    assert list(sampler) == [SampleKey(7, 0), SampleKey(7, 1), SampleKey(7, 2), SampleKey(7, 3)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("remainder", ["drop", "pad", "keep"])
def test_resumed_is_the_tail_of_uninterrupted(world_size: int, remainder: Any) -> None:
    for rank in range(world_size):
        sampler = EpochSampler(17, shuffle=True, seed=5, rank=rank, world_size=world_size, remainder=remainder)
        sampler.set_epoch(2)
        whole = list(sampler)
        for done in range(len(whole) + 1):
            resumed = EpochSampler(17, shuffle=True, seed=5, rank=rank, world_size=world_size, remainder=remainder)
            resumed.set_epoch(2)
            resumed.skip(done)
            assert list(resumed) == whole[done:]
            assert len(resumed) == len(whole) - done


def test_next_epoch_forgets_the_skip() -> None:
    sampler = EpochSampler(10, shuffle=True, seed=0)
    sampler.skip(6)
    assert len(indices(sampler)) == 4
    sampler.set_epoch(1)
    assert len(indices(sampler)) == len(sampler) == 10


@pytest.mark.parametrize(("length", "world_size"), [(17, 1), (17, 2), (17, 3), (18, 3), (2, 5)])
def test_shares_of_the_processes(length: int, world_size: int) -> None:
    def shares(remainder: Any) -> list[list[int]]:
        samplers = [
            EpochSampler(length, shuffle=True, seed=3, rank=rank, world_size=world_size, remainder=remainder)
            for rank in range(world_size)
        ]
        assert [len(sampler) for sampler in samplers] == [len(indices(sampler)) for sampler in samplers]
        return [indices(sampler) for sampler in samplers]

    kept = shares("keep")
    assert sorted(chain(*kept)) == list(range(length))
    assert max(map(len, kept)) - min(map(len, kept)) <= 1

    padded = shares("pad")
    assert {len(share) for share in padded} == {-(-length // world_size)}
    assert set(chain(*padded)) == set(range(length))

    if length >= world_size:
        dropped = shares("drop")
        assert {len(share) for share in dropped} == {length // world_size}
        assert len(set(chain(*dropped))) == length // world_size * world_size


def test_batches_are_the_same_sets_for_any_number_of_processes() -> None:
    alone = indices(EpochSampler(24, shuffle=True, seed=9))
    for world_size in (2, 3):
        shares = [
            indices(EpochSampler(24, shuffle=True, seed=9, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        each = 6 // world_size  # a total batch of 6
        for step in range(4):
            together = chain(*(share[step * each : (step + 1) * each] for share in shares))
            assert sorted(together) == sorted(alone[step * 6 : (step + 1) * 6])


@pytest.mark.parametrize(
    "change",
    [
        {"length": 0},
        {"seed": -1},
        {"rank": 2, "world_size": 2},
        {"rank": -1},
        {"remainder": "ceil"},
        {"length": 2, "world_size": 3},
    ],
)
def test_bad_arguments(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|needs|divided"):
        EpochSampler(**{"length": 5, "shuffle": True, "seed": 0, **change})


def test_bad_epoch_and_skip() -> None:
    sampler = EpochSampler(5, shuffle=True, seed=0)
    with pytest.raises(ValueError, match="epoch=-1"):
        sampler.set_epoch(-1)
    for samples in (-1, 6):
        with pytest.raises(ValueError, match="cannot skip"):
            sampler.skip(samples)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_repeated_sampler_visits_all_before_any_again(world_size: int) -> None:
    length, per_epoch = 7, 12

    def visits(size: int, epochs: int) -> list[SampleKey]:
        samplers = [
            RepeatedSampler(length, samples_per_epoch=per_epoch, seed=3, rank=rank, world_size=size)
            for rank in range(size)
        ]
        keys: list[SampleKey] = []
        for epoch in range(epochs):
            for sampler in samplers:
                sampler.set_epoch(epoch)
            keys += [key for group in zip(*samplers, strict=True) for key in group]
        return keys

    keys = visits(world_size, 7)
    assert len(keys) == 7 * per_epoch
    assert keys == visits(1, 7)  # the same samples in every step, whatever the number of processes
    for visit in range(12):
        block = keys[visit * length : (visit + 1) * length]
        assert sorted(key.index for key in block) == list(range(length))
        assert {key.epoch for key in block} == {visit}
    assert [key.index for key in keys[:length]] != [key.index for key in keys[length : 2 * length]]


def test_a_repeated_sampler_begins_inside_an_epoch() -> None:
    sampler = RepeatedSampler(5, samples_per_epoch=8, seed=0, rank=1, world_size=2)
    sampler.set_epoch(2)
    whole = list(sampler)
    assert len(whole) == len(sampler) == 4
    sampler.set_epoch(2)
    sampler.skip(3)
    assert list(sampler) == whole[3:]
    assert len(sampler) == 1
    with pytest.raises(ValueError, match="multiple of world_size"):
        RepeatedSampler(5, samples_per_epoch=7, seed=0, world_size=2)
