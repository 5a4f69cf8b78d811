"""Sharing out the total batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch

from a2mamba.tasks import batches
from a2mamba.tasks.batches import BatchPlan, largest_micro_batch, plan_batches


@pytest.mark.parametrize(
    ("total", "processes", "limit", "expected"),
    [
        (2048, 8, None, (256, 1)),  # the authors' own: 8 GPUs of 256
        (2048, 1, None, (2048, 1)),
        (2048, 1, 256, (256, 8)),
        (2048, 4, 100, (64, 8)),
        (1024, 8, 64, (64, 2)),
        (96, 3, 20, (16, 2)),
        (100, 1, 64, (50, 2)),
        (1, 1, 1, (1, 1)),
        (16, 16, 8, (1, 1)),
    ],
)
def test_plans(total: int, processes: int, limit: int | None, expected: tuple[int, int]) -> None:
    assert plan_batches(total, world_size=processes, micro_batch=limit) == expected


def test_every_plan_is_the_total_batch() -> None:
    checked = 0
    for total in range(1, 130):
        for processes in (1, 2, 3, 8):
            for limit in (None, 1, 2, 5, 16, 64):
                with contextlib.suppress(ValueError):
                    plan = plan_batches(total, world_size=processes, micro_batch=limit)
                    assert plan.micro_batch * plan.accumulate * processes == total
                    assert limit is None or plan.micro_batch <= limit
                    checked += 1
    assert checked > 1000


def suggested(message: str) -> list[int]:
    """The totals that a message says would do."""
    words = message[message.index("; use ") :].replace(",", " ").split()
    return [int(word) for word in words if word.isdigit()]


@pytest.mark.parametrize(("total", "processes", "limit"), [(2047, 8, None), (7, 8, None), (127, 1, 64), (254, 2, 64)])
def test_refusals_name_totals_that_work(total: int, processes: int, limit: int | None) -> None:
    with pytest.raises(ValueError, match=f"data.batch_size={total} ") as caught:
        plan_batches(total, world_size=processes, micro_batch=limit)
    totals = suggested(str(caught.value))
    assert totals
    assert total not in totals
    for other in totals:
        plan_batches(other, world_size=processes, micro_batch=limit)
    assert min(abs(other - total) for other in totals) < processes + (limit or 0)


@pytest.mark.parametrize(
    ("arguments", "name"), [((0, 1, None), "batch_size"), ((4, 0, None), "world_size"), ((4, 1, 0), "micro_batch")]
)
def test_numbers_out_of_range(arguments: tuple[int, int, int | None], name: str) -> None:
    total, processes, limit = arguments
    with pytest.raises(ValueError, match=f"{name}={0}"):
        plan_batches(total, world_size=processes, micro_batch=limit)


def test_on_a_cpu_nothing_is_tried() -> None:
    def attempt(size: int) -> None:
        raise AssertionError("the memory of a CPU is not probed")

    assert largest_micro_batch(48, attempt, device="cpu") == 48


@pytest.mark.parametrize(("room", "expected"), [(1000, 48), (48, 48), (47, 24), (15, 12), (5, 4), (1, 1)])
def test_on_a_gpu_the_largest_divisor_with_room_is_taken(
    room: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice alone: what a real device has room for was not measured by this test."""
    tried: list[int] = []

    def has_room(attempt: Callable[[int], None], size: int, device: torch.device, reserve: int) -> bool:
        tried.append(size)
        assert (device.type, reserve) == ("cuda", 7)
        return size <= room

    monkeypatch.setattr(batches, "_has_room", has_room)
    assert largest_micro_batch(48, lambda size: None, device="cuda", reserve=7) == expected
    assert tried == sorted(tried, reverse=True)
    assert all(48 % size == 0 for size in tried)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_pass_that_does_not_fit_is_halved() -> None:
    """An attempt that takes a third of what is free for each sample: two fit and four do not."""
    share = torch.cuda.mem_get_info()[0] // 3

    def attempt(size: int) -> None:
        torch.empty(size * share, dtype=torch.uint8, device="cuda")

    assert largest_micro_batch(4, attempt, device="cuda") == 2
    assert largest_micro_batch(4, attempt, device="cuda", reserve=share) == 1
    with pytest.raises(ValueError, match="no room for one training sample"):
        largest_micro_batch(4, lambda size: attempt(4), device="cuda")


def test_a_plan_is_a_pair() -> None:
    micro, passes = BatchPlan(4, 2)
    assert (micro, passes) == (4, 2)
