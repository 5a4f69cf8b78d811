"""A launch that is made again takes nothing from the first but what may not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from a2mamba.ops import triton_launch
from a2mamba.ops.triton_launch import RepeatedLaunch, kind, repeated


class Kernel:
    """What a Triton kernel shows to who launches it, here without a GPU."""

    arg_names = ("x", "length", "out", "BLOCK")

    def __init__(self) -> None:
        self.bound: list[Any] = []
        self.direct: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(**arguments: Any) -> Any:
            self.bound.append((grid, arguments))
            return Compiled(self)

        return launch


class Compiled:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments: self.kernel.direct.append((grid, arguments))


def test_the_second_launch_is_direct_and_has_its_own_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "DIRECT", True)
    kernel, x, out = Kernel(), torch.zeros(3), torch.zeros(3)
    launch = RepeatedLaunch((kernel, (5,), {"out": out, "x": x, "BLOCK": 8, "length": 3, "num_warps": 4}))
    launch(x=x, out=out)
    assert kernel.bound == [((5, 1, 1), {"x": x, "out": out, "length": 3, "BLOCK": 8, "num_warps": 4})]
    other = torch.ones(3)
    launch(x=other, out=out)
    assert kernel.direct == [((5, 1, 1), (other.data_ptr(), 3, out.data_ptr(), 8))]
    assert len(kernel.bound) == 1


def test_older_tritons_bind_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "DIRECT", False)
    kernel, x = Kernel(), torch.zeros(3)
    launch = RepeatedLaunch((kernel, (5, 2), {"x": x, "length": 3, "out": x, "BLOCK": 8}))
    launch(x=x, out=x)
    launch(x=x, out=x)
    assert (len(kernel.bound), kernel.direct) == (2, [])


def test_kinds_differ_in_all_that_a_launch_follows_from() -> None:
    x = torch.zeros(2, 3, 8)
    others = [x[:1], x.transpose(0, 1).contiguous().transpose(0, 1), x.half(), x.to("meta")[0], x.flatten()[1:]]
    assert len({kind(each) for each in (x, None, *others)}) == 7
    assert kind(x) == kind(torch.ones(2, 3, 8))


def test_launches_are_made_once_for_a_key_and_forgotten_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "_known", {})
    monkeypatch.setattr(triton_launch, "MOST", 2)
    made: list[str] = []

    def make(name: str) -> list[triton_launch.Launch]:
        made.append(name)
        return [(Kernel(), (1,), {"x": torch.zeros(1), "length": 1, "out": torch.zeros(1), "BLOCK": 8})]

    first = repeated("a", lambda: make("a"))
    assert repeated("a", lambda: make("a")) is first
    repeated("b", lambda: make("b"))
    repeated("c", lambda: make("c"))
    assert made == ["a", "b", "c"]
    assert len(triton_launch._known) == 1
