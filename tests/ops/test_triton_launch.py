"""A launch that is made again takes nothing from the first but what may not change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from a2mamba.ops import triton_launch
from a2mamba.ops.triton_launch import RepeatedLaunch, dense_kind, kind, repeated


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


def apart(x: Tensor) -> Tensor:
    """Return a copy with a gap between neighbors of the last axis, as no operator writes."""
    return torch.stack((x, x), dim=-1)[..., 0]


def shifted(x: Tensor) -> Tensor:
    """Return a contiguous copy that begins one element behind a multiple of 16 bytes."""
    return x.new_empty(x.numel() + 1)[1:].view(x.shape).copy_(x)


HOOKS: tuple[Callable[[Tensor], Tensor], ...] = (lambda x: x, apart, shifted, lambda x: x)


def run_hooked(operator: str) -> tuple[int, list[str], float]:
    """Differentiate an operator whose saved tensors come back otherwise than they were saved.

    Returns the launches that were made again, those of them that were made with tensors of other kinds than the first
    time, and the largest difference of a gradient.
    """
    first: dict[RepeatedLaunch, dict[str, object]] = {}
    again = 0
    wrong: list[str] = []
    call = RepeatedLaunch.__call__

    def compare(launch: RepeatedLaunch, **tensors: Tensor) -> None:
        nonlocal again
        kinds: dict[str, object] = {name: dense_kind(x) for name, x in tensors.items()}
        again += launch in first
        known = first.setdefault(launch, kinds)
        wrong.extend(f"{launch.kernel.fn.__name__}: {name}" for name in kinds if kinds[name] != known[name])
        call(launch, **tensors)

    leaves, run = hooked(operator)
    gradients = []
    with mock.patch.object(RepeatedLaunch, "__call__", compare):
        for hook in HOOKS:
            with torch.autograd.graph.saved_tensors_hooks(lambda x: x, hook):
                out = run()
                gradients.append(torch.autograd.grad(out, leaves, torch.ones_like(out)))
    errors = [float((x - y).abs().max()) for each in gradients for x, y in zip(each, gradients[0], strict=True)]
    return again, wrong, max(errors)


def hooked(operator: str) -> tuple[list[Tensor], Callable[[], Tensor]]:
    """Return the leaves of an operator's smallest call, and what calls its Triton backend with them."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).requires_grad_()

    if operator == "attention":
        from a2mamba.ops.neighborhood import triton_impl as attention

        q, k, v, bias = leaves = [*(draw(1, 1, 2, 3, 8) for _ in "qkv"), draw(1, 5, 5)]

        def attend_twice() -> Tensor:
            out, memory = attention.run_with_memory(q, k, v, bias, (3, 3), (1, 1), 0.5)
            moved = memory._replace(lse=shifted(memory.lse))
            return out + attention.apply_again(q, k, v, bias, moved, (3, 3), (1, 1), 0.5)

        return leaves, attend_twice
    if operator == "scan":
        from a2mamba.ops.selective_scan import triton_impl as scan

        u, delta, B = leaves = [draw(1, 4, 6), draw(1, 4, 6), draw(1, 1, 6)]
        return leaves, lambda: scan.run(u, delta, -torch.ones(4), B, None, True)
    from a2mamba.ops.channel_norm import triton_impl as norm

    x, weight, bias = leaves = [draw(1, 8, 3, 5), draw(8), draw(8)]
    return leaves, lambda: norm.run(x.contiguous(memory_format=torch.channels_last), weight, bias, 1e-6, None)


@pytest.mark.parametrize("operator", ["attention", "scan", "channel_norm"])
def test_saved_tensors_that_come_back_otherwise_have_launches_of_their_own(
    operator: str, interpreted: Callable[..., Any]
) -> None:
    again, wrong, error = interpreted(run_hooked, operator)
    assert again > 0
    assert wrong == []
    assert error < 1e-5
