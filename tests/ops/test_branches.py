"""Both attention maps of a mixer as one object, and the memory that threads lend to kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from a2mamba.export.comparison import torch_threads
from a2mamba.ops import BranchedMap, neighborhood_attention, numba_threads
from a2mamba.ops.neighborhood import numba_branches
from a2mamba.ops.neighborhood import numba_impl as attention_impl
from support import needs_numba, relative_error

# Heads, height, width, head_dim, window, dilation: also a map narrower than its window, and heads of one axis.
CASES = [(2, 9, 14, 16, 5, (2, 3)), (4, 3, 20, 8, 7, (1, 2)), (6, 24, 10, 32, 3, (3, 1)), (2, 1, 1, 16, 5, (1, 1))]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def tensors(case: tuple[Any, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Return q, k and v as a mixer cuts them, states as a scan leaves them, and the table."""
    heads, height, width, head_dim, window, _ = case
    generator = torch.Generator().manual_seed(7)
    qkv = torch.randn(2, height, width, 3, heads, head_dim, generator=generator)
    states = torch.randn(2, height, width, heads, head_dim, generator=generator)
    bias = torch.randn(heads // 2, 2 * window - 1, 2 * window - 1, generator=generator)
    q, k, v = (qkv[:, :, :, i].permute(0, 3, 1, 2, 4).to(dtype) for i in range(3))
    return q, k, v, states.permute(0, 3, 1, 2, 4).to(dtype), bias


def run(case: tuple[Any, ...], parts: tuple[Tensor, ...], again: bool = True) -> tuple[Tensor, Tensor]:
    q, k, v, states, bias = parts
    both = BranchedMap(q, k, bias, kernel_size=case[4], dilation=case[5], again=again)
    return both.chain(v), torch.cat(both(states), dim=1)


def expected(case: tuple[Any, ...], parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return what the reference makes of the two halves, one after the other."""
    q, k, v, states, bias = (each.double() for each in parts)

    def attend(half: int, values: Tensor) -> Tensor:
        heads = slice(half * case[0] // 2, (half + 1) * case[0] // 2)
        options: dict[str, Any] = {"kernel_size": case[4], "dilation": case[5] if half else 1, "backend": "reference"}
        return neighborhood_attention(q[:, heads], k[:, heads], values, bias, **options)

    (v1, v2), (s1, s2) = v.chunk(2, dim=1), states.chunk(2, dim=1)
    local = attend(0, v1)
    return torch.cat((local, attend(1, local + v2)), dim=1), torch.cat((attend(0, s1), attend(1, s2)), dim=1)


@needs_numba
@every_case
@pytest.mark.parametrize("limit", [0, 2**30])
@pytest.mark.parametrize("count", [1, 2])
def test_one_call_is_two_maps(
    case: tuple[Any, ...], limit: int, count: int, monkeypatch: pytest.MonkeyPatch, poison: Callable[[], None]
) -> None:
    monkeypatch.setattr(attention_impl, "STORED", limit)
    parts = tensors(case)
    with torch_threads(count):
        right = expected(case, parts)
        apply = mock.Mock(wraps=numba_branches.Branches.apply, side_effect=numba_branches.Branches.apply)
        monkeypatch.setattr(numba_branches.Branches, "apply", lambda *a, **o: apply(*a, **o))
        poison()
        with torch.no_grad():
            for again in (True, False):
                found = run(case, parts, again)
                assert all(relative_error(ours, each) < 3e-6 for ours, each in zip(found, right, strict=True))
        assert apply.call_count == 4


@needs_numba
@every_case
def test_bfloat16(case: tuple[Any, ...]) -> None:
    parts = tensors(case, torch.bfloat16)
    with torch.no_grad():
        found = run(case, parts)
    assert all(ours.dtype == torch.bfloat16 for ours in found)
    assert all(relative_error(ours, right) < 2e-2 for ours, right in zip(found, expected(case, parts), strict=True))


@needs_numba
def test_values_of_another_dtype_find_no_map_that_the_other_kernel_stored() -> None:
    case = CASES[0]
    q, k, v, states, bias = tensors(case, torch.bfloat16)
    with torch.no_grad():
        found = run(case, (q, k, v, states.float(), bias))[1]
    assert found.dtype == torch.float32
    assert relative_error(found, expected(case, (q, k, v, states, bias))[1]) < 1e-5


@needs_numba
def test_a_second_application_to_what_no_kernel_reads_is_two_maps() -> None:
    case = CASES[0]
    parts = q, k, v, states, bias = tensors(case)
    with torch.no_grad():
        found = run(case, (q, k, v, states.double(), bias))[1]
    assert found.dtype == torch.float64
    assert relative_error(found, expected(case, parts)[1]) < 1e-12


@every_case
def test_where_a_gradient_is_wanted_both_are_what_they_say(case: tuple[Any, ...]) -> None:
    leaves = [each.requires_grad_() for each in tensors(case)]
    exact = [each.detach().double().requires_grad_() for each in leaves]
    for maps, inputs in ((run(case, tuple(leaves)), leaves), (expected(case, tuple(exact)), exact)):
        torch.autograd.backward(maps, [torch.cos(each.detach()) for each in maps], inputs=inputs)
    for ours, right in zip(leaves, exact, strict=True):
        assert ours.grad is not None
        assert right.grad is not None
        assert relative_error(ours.grad, right.grad) < 1e-5 or right.grad.norm() < 1e-6


def test_an_odd_number_of_heads_is_named() -> None:
    q = torch.zeros(1, 3, 4, 4, 8)
    with pytest.raises(ValueError, match=r"even number of heads, got \(1, 3, 4, 4, 8\)"):
        BranchedMap(q, q, torch.zeros(1, 5, 5), kernel_size=3, dilation=(1, 1))


def test_scratch_memory_is_a_thread_s_own() -> None:
    size = numba_threads.KEPT_SCRATCH
    mine = numba_threads.scratch(size)
    assert numba_threads.scratch(size // 2).data_ptr() == mine.data_ptr()
    with ThreadPoolExecutor(max_workers=1) as pool:
        assert pool.submit(numba_threads.scratch, 8).result().data_ptr() != mine.data_ptr()
    large = numba_threads.scratch(size + 1).fill_(math.nan)
    assert large.numel() == size + 1
    assert numba_threads.scratch(8).data_ptr() == mine.data_ptr()
