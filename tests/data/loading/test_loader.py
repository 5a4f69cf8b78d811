"""Undecodable samples in training: replaced by their neighbors, the same in every run, and put on a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from a2mamba.data import BatchLoader, EpochSampler, SeededDataset, UndecodableImageError
from a2mamba.data.loading.loader import NEIGHBORS


class Batch(NamedTuple):
    indices: Tensor
    noise: Tensor


class Numbers(Dataset[tuple[int, float]]):
    """The index and a random number; those in `bad` cannot be decoded."""

    def __init__(self, length: int, bad: Sequence[int]) -> None:
        self.length = length
        self.bad = bad

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[int, float]:
        if index in self.bad:
            raise UndecodableImageError(f"{index}.png", f"reason {index}")
        return index, float(torch.rand(()))


def collate(samples: Sequence[tuple[int, float]]) -> Batch:
    indices, noise = zip(*samples, strict=True)
    return Batch(torch.tensor(indices), torch.tensor(noise))


def loader(bad: Sequence[int], *, length: int = 12, workers: int = 0, replace: bool = True) -> BatchLoader[Batch]:
    made: BatchLoader[Batch] = BatchLoader(
        SeededDataset(Numbers(length, bad), 3),
        EpochSampler(length, shuffle=True, seed=3),
        batch_size=4,
        collate=collate,
        drop_last=True,
        workers=workers,
    )
    if replace:
        made.replace_undecodable()
    return made


def read(made: BatchLoader[Batch], epoch: int = 0, skip: int = 0) -> tuple[list[int], list[float]]:
    made.set_epoch(epoch)
    made.skip(skip)
    batches = list(made)
    return torch.cat([b.indices for b in batches]).tolist(), torch.cat([b.noise for b in batches]).tolist()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_is_replaced_by_the_next_good_one(workers: int) -> None:
    whole, _ = read(loader([]))
    made = loader([4, 5, 11], workers=workers)
    found, noise = read(made)
    assert found == [{4: 6, 5: 6, 11: 0}.get(index, index) for index in whole], "11 is the last: the first follows it"
    assert made.quarantine == {"4.png": "reason 4", "5.png": "reason 5", "11.png": "reason 11"}
    # the replacement looks as it does wherever it stands in this epoch
    assert len({noise[i] for i, index in enumerate(found) if index == 6}) == 1
    assert made.samples == 12


def test_a_resumed_epoch_has_the_same_replacements() -> None:
    whole, noise = read(loader([4, 5, 11]), epoch=2)
    rest, rest_noise = read(loader([4, 5, 11]), epoch=2, skip=8)
    assert (rest, rest_noise) == (whole[8:], noise[8:])
    assert read(loader([4, 5, 11]), epoch=1) != (whole, noise)


def test_only_what_was_handed_out_is_on_the_list() -> None:
    made = loader([4])
    whole, _ = read(loader([]))
    place = whole.index(4) // 4
    for number, _ in enumerate(iter(made)):
        assert ("4.png" in made.quarantine) == (number >= place)


def test_without_being_asked_it_raises() -> None:
    made = loader([4], replace=False)
    with pytest.raises(UndecodableImageError, match=r"4\.png: reason 4"):
        list(made)
    assert made.quarantine == {}


def test_too_many_in_a_row_raise() -> None:
    length = NEIGHBORS + 20
    assert len(read(loader(range(5, 5 + NEIGHBORS), length=length))[0]) == length // 4 * 4
    with pytest.raises(UndecodableImageError, match=rf"{5 + NEIGHBORS}\.png"):
        list(loader(range(5, 6 + NEIGHBORS), length=length))


def test_workers_that_run_already_cannot_be_told() -> None:
    made = loader([], workers=1, replace=False)
    list(made)
    with pytest.raises(AssertionError, match="before iterating"):
        made.replace_undecodable()


def test_the_four_ways_an_image_file_is_broken(tmp_path: Path) -> None:
    """Through the real decoder: truncated, empty, text, and 20,000 x 20,000 pixels in a few bytes."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
    from reliability import _damage

    from a2mamba.data import decode_image

    from ..helpers import write_image

    files = [write_image(tmp_path / f"{number}.png", seed=number) for number in range(4)]
    ways = _damage(files)
    assert len(set(ways.values())) == 4
    reasons = []
    for file in files:
        with pytest.raises(UndecodableImageError) as error:
            decode_image(file)
        reasons.append(error.value.reason)
    assert reasons[0] == "image file is truncated"
    assert reasons[1] == "the file is empty"
    assert reasons[2].startswith("not an image in a known format")
    assert "400000000 pixels" in reasons[3]
