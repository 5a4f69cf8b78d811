"""The Triton kernels of what is done to maps around attention and scan, under Triton's interpreter.

Functions named ``run_*`` run in the interpreter's process (see conftest.py) and return errors; tests judge them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib import import_module
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from a2mamba.ops.triton_maps import position_stride
from support import norm_error, poisoned_empty

LIMITS = {torch.float32: 2e-6, torch.bfloat16: 1e-2}

# operator, its name in the modules of its folder, the method of its cases that makes arguments
OPERATORS = {
    "channel_norm": ("channel_norm", "run", "inputs"),
    "depthwise_conv": ("depthwise", "run", "inputs"),
    "rotate": ("rotary", "rotate", "inputs"),
    "read_out": ("readout", "read_out", "read_out_inputs"),
    "gated_norm": ("readout", "gated_norm", "gated_norm_inputs"),
}
CALLS = [
    pytest.param(name, number, id=f"{name}-{case}")
    for name, (folder, _, _) in OPERATORS.items()
    for number, case in enumerate(import_module(f"a2mamba.ops.{folder}").CASES)
]


def exactly(arguments: Any) -> Any:
    """Return nested arguments with tensors and norms in float64."""
    if isinstance(arguments, Tensor):
        return arguments.double()
    if isinstance(arguments, nn.Module):
        return copy.deepcopy(arguments).double()
    return tuple(map(exactly, arguments)) if isinstance(arguments, tuple) else arguments


def run_case(name: str, number: int, dtype: torch.dtype) -> list[float]:
    """Return the errors of two calls, of which the second is launched again, and of another tensor of the kind."""
    folder, function, inputs = OPERATORS[name]
    implementation = import_module(f"a2mamba.ops.{folder}.triton_impl")
    reference = getattr(import_module(f"a2mamba.ops.{folder}.reference"), name)
    case = import_module(f"a2mamba.ops.{folder}").CASES[number]
    errors = []
    with (
        torch.no_grad(),
        mock.patch.object(torch, "empty", poisoned_empty),
        # As many rows a thread as on large maps: fewer programs to interpret.
        mock.patch("a2mamba.ops.depthwise.triton_impl.PROGRAMS", 0),
    ):
        for seed in (0, 0, 1):
            arguments = getattr(case, inputs)(dtype, "cpu", seed)
            objects = getattr(implementation, f"{function}_why_not" if folder == "readout" else "why_not")
            assert objects(*arguments) is None
            expected = reference(*exactly(arguments))
            if folder == "depthwise":
                found = implementation.run(*arguments, residual=True)
                errors.append(norm_error(found, expected + arguments[0].double()))
                found = implementation.run(*arguments, residual=False)
            else:
                found = getattr(implementation, function)(*arguments)
            errors.append(norm_error(found, expected))
    return errors


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(("name", "number"), CALLS)
def test_kernels_agree_with_references(
    name: str, number: int, dtype: torch.dtype, interpreted: Callable[..., Any]
) -> None:
    assert max(interpreted(run_case, name, number, dtype)) < LIMITS[dtype]


def run_depthwise(sizes: tuple[int, ...], rows: int, dtype: torch.dtype, residual: bool) -> float:
    """Return the error of a depthwise convolution whose threads own ``rows`` rows, with a residual or with SiLU."""
    from a2mamba.ops import triton_launch
    from a2mamba.ops.depthwise import Case, reference, triton_impl

    x, weight, bias = Case(*sizes).inputs(dtype)
    expected = reference.depthwise_conv(*exactly((x, weight, bias)))
    expected = expected + x.double() if residual else nn.functional.silu(expected)
    with (
        torch.no_grad(),
        mock.patch.object(torch, "empty", poisoned_empty),
        mock.patch.object(triton_impl, "ROWS", (rows,)),
        mock.patch.object(triton_impl, "PROGRAMS", 0),
        mock.patch.object(triton_launch, "_known", {}),
    ):
        return norm_error(triton_impl.run(x, weight, bias, residual=residual, silu=not residual), expected)


@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ((3, 8, 1, 1, 3), 7),  # a map lower than a thread's rows, and than the kernel
        ((2, 20, 7, 3, 5), 7),  # channels that are no vectors
        ((2, 24, 13, 5, 3), 4),  # a last row alone
        ((1, 16, 14, 9, 5), 7),  # rows that fit
        ((1, 72, 56, 3, 3), 6),  # nine vectors of channels, in groups of five; eighteen, in groups of six
        ((2, 144, 13, 7, 3), 2),
        ((1, 8, 6, 4, 7), 5),
        ((2, 16, 3, 5, 5), 1),
    ],
    ids=str,
)
def test_depthwise_rows(sizes: tuple[int, ...], rows: int, dtype: torch.dtype, interpreted: Callable[..., Any]) -> None:
    assert interpreted(run_depthwise, sizes, rows, dtype, rows % 2 == 0) < LIMITS[dtype]


def run_gate_norm(how: str) -> tuple[float, int]:
    """Return the error of a gated norm and how often the gate's norm was called."""
    from a2mamba.ops.readout import CASES, reference, triton_impl

    x, added, gate, gate_norm, norm, out_norm = CASES[2].gated_norm_inputs()
    calls = []
    other: nn.Module = gate_norm
    if how == "hooked":
        gate_norm.register_forward_hook(lambda *_: calls.append(how))
    if how == "training":
        other = gate_norm.train()
    if how == "folded":
        other = nn.Identity()
    arguments = x, added, gate, other, norm, out_norm
    expected = reference.gated_norm(*exactly(arguments))
    calls.clear()
    with torch.no_grad(), mock.patch.object(torch, "empty", poisoned_empty):
        return norm_error(triton_impl.gated_norm(*arguments), expected), len(calls)


@pytest.mark.parametrize(("how", "calls"), [("folded", 0), ("hooked", 1), ("training", 0)])
def test_gate_norms(how: str, calls: int, interpreted: Callable[..., Any]) -> None:
    off, called = interpreted(run_gate_norm, how)
    assert off < LIMITS[torch.float32]
    assert called == calls


def run_norm_gradients(number: int, dtype: torch.dtype, channels_first: bool) -> list[float]:
    """Return the errors of the gradients of the norm, the incoming one with or without channels innermost."""
    from a2mamba.ops.channel_norm import CASES, reference, triton_impl

    *tensors, eps, result = CASES[number].inputs(dtype)
    ours = [x.detach().requires_grad_() for x in tensors]
    exact = [x.detach().double().requires_grad_() for x in tensors]
    with mock.patch.object(triton_impl, "PROGRAMS", 2), mock.patch.object(torch, "empty", poisoned_empty):
        x, weight, bias = ours
        out = triton_impl.run(x, weight, bias, eps, result)
        incoming = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        if not channels_first:
            incoming = incoming.contiguous(memory_format=torch.channels_last)
        found = torch.autograd.grad(out, ours, incoming)
    x, weight, bias = exact
    expected = torch.autograd.grad(reference.channel_norm(x, weight, bias, eps, None), exact, incoming.double())
    # The gradient of a norm of equal values is rounding: measured against that of a norm that is not.
    return [
        float((a.double() - b).norm() / b.norm().clamp(min=1e-3 * b.numel() ** 0.5))
        for a, b in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("number", range(4))
def test_norm_gradients(number: int, dtype: torch.dtype, channels_first: bool, interpreted: Callable[..., Any]) -> None:
    assert max(interpreted(run_norm_gradients, number, dtype, channels_first)) < LIMITS[dtype]


def run_refusals() -> list[str | None]:
    from a2mamba.ops.channel_norm import triton_impl as norm_impl
    from a2mamba.ops.depthwise import triton_impl as depthwise_impl

    x, weight, bias, *settings = import_module("a2mamba.ops.channel_norm").CASES[1].inputs()
    found = [norm_impl.why_not(x.contiguous(), weight, bias, *settings)]
    found += [norm_impl.why_not(x, weight.double(), bias, *settings)]
    x, weight, bias = import_module("a2mamba.ops.depthwise").CASES[1].inputs()
    found += [depthwise_impl.why_not(x, weight, bias)]
    with torch.no_grad():
        found += [depthwise_impl.why_not(x, weight.new_zeros(len(weight), 1, 9, 9), bias)]
    return found


def test_refusals_name_what_was_found(interpreted: Callable[..., Any]) -> None:
    phrases = ("side by side", "float64", "gradient", "9")
    for reason, phrase in zip(interpreted(run_refusals), phrases, strict=True):
        assert reason is not None
        assert phrase in reason


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((2, 4, 3, 5), (60, 1, 20, 4), 4),
        ((2, 4, 3, 5), (180, 1, 60, 12), 12),  # a slice of channels
        ((2, 4, 3, 5), (60, 15, 5, 1), None),  # channels first
        ((2, 4, 3, 5), (80, 1, 20, 4), None),  # a gap between images
        ((2, 4, 3, 5), (72, 1, 24, 4), None),  # a gap between rows
        ((2, 4, 1, 1), (12, 1, 7, 9), 12),  # axes of one position may have any stride
        ((1, 4, 1, 1), (3, 1, 7, 9), 4),
        ((3, 1, 2, 2), (4, 9, 2, 1), 1),
    ],
)
def test_position_stride(shape: tuple[int, ...], strides: tuple[int, ...], expected: int | None) -> None:
    assert position_stride(torch.empty(400).as_strided(shape, strides)) == expected
