"""The Triton kernels of the selective scan against reference.py in float64, under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from a2mamba.ops.selective_scan import reference
from support import norm_error, poisoned_empty

LIMITS = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Case:
    batch: int
    channels: int
    length: int
    groups: int = 1
    layouts: tuple[str, str] = ("BLC", "BLC")  # of u and delta
    bias: bool = True
    softplus: bool = True
    dtype: torch.dtype = torch.float32
    programs: int = 512  # below this many, the sequence is cut into chunks

    def __str__(self) -> str:
        flags = f"{'bias' * self.bias}-{'softplus' * self.softplus}-{str(self.dtype)[6:]}-{self.programs}"
        return f"{self.batch}x{self.channels}x{self.length}-N{self.groups}-{'-'.join(self.layouts)}-{flags}"


CASES = [
    Case(1, 1, 1),
    Case(2, 6, 5, bias=False),
    Case(2, 6, 70, groups=2),
    Case(2, 6, 70, groups=2, programs=0),
    Case(1, 5, 300),
    Case(1, 67, 37, groups=1),
    Case(1, 6, 300, layouts=("BCL", "BCL"), bias=False),
    Case(1, 12, 600, groups=3, layouts=("BCL", "BLC")),
    Case(1, 3, 150, bias=False, softplus=False),
    Case(1, 3, 40, softplus=False, layouts=("BLC", "BCL")),
    Case(2, 12, 30, groups=3, dtype=torch.bfloat16),
    Case(1, 4, 150, dtype=torch.float16),
]


def make(case: Case) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def sequence(layout: str) -> Tensor:
        sizes = {"B": case.batch, "C": case.channels, "L": case.length}
        memory = torch.randn([sizes[axis] for axis in layout], generator=generator)
        return memory.permute([layout.index(axis) for axis in "BCL"])

    tensors = {"u": sequence(case.layouts[0]), "delta": sequence(case.layouts[1])}
    if not case.softplus:
        tensors["delta"] = tensors["delta"].abs() / 10 + 3.5  # stays positive with the bias below
    tensors = {name: tensor.to(case.dtype) for name, tensor in tensors.items()}
    tensors["A"] = -torch.rand(case.channels, generator=generator) - 0.1
    tensors["B"] = torch.randn(case.batch, case.groups, case.length, generator=generator).to(case.dtype)
    if case.bias:
        tensors["delta_bias"] = torch.randn(case.channels, generator=generator).clamp(-1, 1) - 2
    return tensors


def run_case(case: Case) -> dict[str, float]:
    """Return the errors of states and gradients."""
    from a2mamba.ops.selective_scan import triton_impl

    tensors = make(case)
    results = []
    for run, dtype in ((triton_impl.run, None), (reference.selective_scan_state, torch.float64)):
        leaves = [t.detach().to(dtype or t.dtype).requires_grad_() for t in tensors.values()]
        arguments: Any = (*leaves, *[None] * (not case.bias), case.softplus)
        with mock.patch.object(triton_impl, "PROGRAMS", case.programs):
            if dtype is None:
                assert triton_impl.why_not(*arguments) is None
            with mock.patch.object(torch, "empty", poisoned_empty):
                states = run(*arguments)
                weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1)).to(states.dtype)
                results.append([states.detach(), *torch.autograd.grad(states, leaves, weights)])
    assert results[0][0].dtype == torch.float32
    return {name: norm_error(*pair) for name, *pair in zip(("states", *tensors), *results, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_and_gradients(case: Case, interpreted: Callable[..., Any]) -> None:
    errors = interpreted(run_case, case)
    wrong = {name: value for name, value in errors.items() if not value < LIMITS[case.dtype]}
    assert not wrong, f"relative errors above {LIMITS[case.dtype]}: {wrong}"


def run_stored(programs: int, gradients: bool) -> tuple[torch.dtype, float, bool]:
    """Return dtype and error of states that are wanted in bfloat16, and whether they have a gradient."""
    from a2mamba.ops.selective_scan import triton_impl

    tensors = make(Case(1, 5, 300))
    leaves = [t.requires_grad_(gradients) for t in tensors.values()]
    with (
        torch.set_grad_enabled(gradients),
        mock.patch.object(triton_impl, "PROGRAMS", programs),
        mock.patch.object(torch, "empty", poisoned_empty),
    ):
        u, delta, A, B, bias = leaves
        exact = triton_impl.run(u, delta, A, B, bias, True)
        # Twice: the second launch is the first one's, again.
        found = [triton_impl.run(u, delta, A, B, bias, True, torch.bfloat16) for _ in range(2)][1]
        assert exact.dtype == torch.float32
        # The interpreter cuts numbers off where it makes bfloat16 of them.
        return found.dtype, norm_error(found, exact), found.requires_grad


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("programs", [0, 512])  # whole sequences, and chunks
def test_states_in_another_dtype(programs: int, gradients: bool, interpreted: Callable[..., Any]) -> None:
    dtype, off, differentiable = interpreted(run_stored, programs, gradients)
    assert dtype == torch.bfloat16
    assert off < 5e-3
    assert differentiable == gradients


def run_counts() -> tuple[int, int]:
    """Return the number of launches of a short, wide sequence and of a long, narrow one."""
    from a2mamba.ops.selective_scan import triton_impl

    counts = []
    for batch, channels, length in ((128, 448, 196), (1, 48, 65536)):
        u = torch.empty(batch, length, channels, device="meta").transpose(1, 2)
        launches = triton_impl.forward_launches(u, u, u, u[0, :, 0], u[:, :1], None, True)
        counts.append(len(launches))
    return counts[0], counts[1]


def test_only_narrow_sequences_are_read_twice(interpreted: Callable[..., Any]) -> None:
    assert interpreted(run_counts) == (1, 3)


def run_small_steps() -> float:
    """Return the largest relative error of softplus from -16, where it is 1e-7, to 30."""
    from a2mamba.ops.selective_scan import triton_impl

    # With one token and an input of one, the state is the step.
    delta = torch.linspace(-16, 30, 64).view(1, 64, 1)
    states = triton_impl.run(torch.ones_like(delta), delta, -torch.ones(64), torch.ones(1, 1, 1), None, True)
    expected = torch.nn.functional.softplus(delta.double(), threshold=20.0)
    return float((states.double() / expected - 1).abs().max())


def test_softplus_is_accurate_for_small_steps(interpreted: Callable[..., Any]) -> None:
    assert interpreted(run_small_steps) < 1e-6


def run_operator_checks() -> None:
    from a2mamba.ops.selective_scan import triton_impl

    leaves = [t.requires_grad_() for t in make(Case(2, 4, 6, groups=2)).values()]
    torch.library.opcheck(triton_impl._forward, (*leaves, True))


def test_registration(interpreted: Callable[..., Any]) -> None:
    interpreted(run_operator_checks)


def run_why_not(name: str) -> str | None:
    from a2mamba.ops.selective_scan import triton_impl

    tensors = make(Case(1, 2, 3))
    tensors[name] = tensors[name].double()
    arguments: Any = (*tensors.values(), True)
    return triton_impl.why_not(*arguments)


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "delta_bias"])
def test_float64_is_refused(name: str, interpreted: Callable[..., Any]) -> None:
    assert interpreted(run_why_not, name) == f"{name} must be float16, bfloat16 or float32, got torch.float64"
