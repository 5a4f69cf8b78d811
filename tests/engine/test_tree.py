from __future__ import annotations

from typing import NamedTuple

import torch

from a2mamba.engine import move_to


class Pair(NamedTuple):
    image: torch.Tensor
    name: str


def test_trees_keep_their_form_and_only_tensors_move() -> None:
    pair = Pair(torch.ones(1, 2, 3, 3), "a.png")
    tree = {
        "pairs": [pair],
        "sizes": (torch.zeros(2, dtype=torch.int64), 5),
        "none": None,
    }
    moved = move_to(tree, torch.device("meta"), torch.channels_last)
    there = moved["pairs"][0]
    assert isinstance(there, Pair)
    assert there.name == "a.png"
    assert there.image.device.type == moved["sizes"][0].device.type == "meta"
    assert there.image.is_contiguous(memory_format=torch.channels_last)
    assert type(moved["sizes"]) is tuple
    assert moved["sizes"][1] == 5
    assert moved["none"] is None
    assert pair.image.device.type == "cpu"
