"""The Triton kernels of neighborhood attention against reference.py in float64, under Triton's interpreter.

Functions named ``run_*`` run in the interpreter's process (see conftest.py) and return errors; tests judge them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from a2mamba.ops.neighborhood import reference
from support import norm_error, poisoned_empty

LIMITS = {torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    size: Pair
    window: Pair
    dilation: Pair = (1, 1)
    batch: int = 1
    heads: int = 1
    width: int = 8
    value_width: int | None = None
    bias: bool = True
    dtype: torch.dtype = torch.float32
    value_dtype: torch.dtype | None = None
    layout: str = "BHWGd"  # the order of the axes in memory

    def __str__(self) -> str:
        settings = [f"{self.size[0]}x{self.size[1]}", f"K{self.window}", f"r{self.dilation}"]
        settings += [f"d{self.width}", f"e{self.value_width}"[: 9 * bool(self.value_width)], str(self.dtype)[6:]]
        settings += [f"v-{self.value_dtype}"[: 20 * bool(self.value_dtype)], self.layout, "" if self.bias else "nobias"]
        return "-".join(part for part in settings if part).replace(" ", "").replace("(", "").replace(")", "")


CASES = [
    Case(size=(5, 9), window=(3, 3), batch=2, heads=2),
    Case(size=(1, 1), window=(3, 3)),
    Case(size=(1, 7), window=(5, 3), width=12, value_width=24, heads=2),
    Case(size=(9, 4), window=(9, 7), width=24),
    Case(size=(12, 10), window=(5, 3), dilation=(2, 3), width=24),
    Case(size=(7, 11), window=(3, 5), dilation=(9, 2), width=28),
    Case(size=(9, 17), window=(7, 7), width=32, bias=False),
    Case(size=(9, 18), window=(11, 11), width=16),
    Case(size=(12, 3), window=(11, 3), width=16),
    Case(size=(23, 13), window=(3, 13), dilation=(7, 1), width=48, value_width=64),
    Case(size=(8, 8), window=(9, 9), width=64, value_width=8),
    Case(size=(10, 11), window=(5, 5), width=24, heads=2, dtype=torch.bfloat16),
    Case(size=(11, 6), window=(3, 5), dilation=(2, 1), width=32, dtype=torch.float16, bias=False),
    Case(size=(9, 10), window=(3, 3), width=24, dtype=torch.bfloat16, value_dtype=torch.float32),
    Case(size=(6, 9), window=(3, 3), heads=2, width=12, layout="BGdHW"),
    Case(size=(6, 9), window=(3, 3), heads=2, batch=2, width=24, layout="BGHWd"),
]


def make(case: Case) -> tuple[dict[str, Tensor], tuple[Pair, Pair, float]]:
    """Return the tensors of a case, q, k and v as views of one larger memory, and the settings."""
    generator = torch.Generator().manual_seed(0)
    widths = (case.width, case.width, case.value_width or case.width)
    sizes = {"B": case.batch, "G": case.heads, "H": case.size[0], "W": case.size[1], "d": sum(widths)}
    memory = torch.randn([sizes[axis] for axis in case.layout], generator=generator)
    whole = memory.permute([case.layout.index(axis) for axis in "BGHWd"])
    q, k, v = (part.to(case.dtype) for part in whole.split(widths, dim=-1))
    if case.dtype == torch.float32:
        q, k, v = whole.split(widths, dim=-1)
    tensors = {"q": q, "k": k, "v": v.to(case.value_dtype or case.dtype)}
    if case.bias:
        tensors["bias"] = torch.randn(case.heads, *(2 * size - 1 for size in case.window), generator=generator)
    return tensors, (case.window, case.dilation, case.width**-0.5)


def differentiate(out: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, tensors, weights)]


def run_case(case: Case) -> dict[str, float]:
    """Return the errors of output and gradients, first application and second."""
    from a2mamba.ops.neighborhood import triton_impl

    tensors, settings = make(case)
    leaves = [t.detach().requires_grad_() for t in tensors.values()]
    exact = [t.detach().double().requires_grad_() for t in tensors.values()]
    absent = [None] * (not case.bias)
    arguments: Any = (*leaves, *absent, *settings)
    arguments_exact: Any = (*exact, *absent, *settings)
    assert triton_impl.why_not(*arguments) is None
    expected = differentiate(reference.neighborhood_attention(*arguments_exact), exact)
    with mock.patch.object(torch, "empty", poisoned_empty):
        out, memory = triton_impl.run_with_memory(*arguments)
        again_arguments: Any = (*leaves, *absent, memory, *settings)
        again = triton_impl.apply_again(*again_arguments)
        found = differentiate(out, leaves) + differentiate(again, leaves)
    assert out.dtype == tensors["v"].dtype
    assert not memory.lse.requires_grad
    assert out.permute(0, 2, 3, 1, 4).is_contiguous()
    names = [f"{call} {name}" for call in ("first", "again") for name in ("out", *tensors)]
    return {name: norm_error(*pair) for name, *pair in zip(names, found, expected * 2, strict=True)}


def judge(errors: dict[str, float], limit: float) -> None:
    wrong = {name: value for name, value in errors.items() if not value < limit}
    assert errors
    assert not wrong, f"relative errors above {limit}: {wrong}"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients(case: Case, interpreted: Callable[..., Any]) -> None:
    judge(interpreted(run_case, case), LIMITS[case.dtype])


def run_twice_applied() -> dict[str, float]:
    """Return the errors where one map is applied to two sets of values and both results meet in one loss."""
    from a2mamba.ops.neighborhood import triton_impl

    tensors, settings = make(Case(size=(9, 7), window=(3, 5), width=16))
    tensors["values"] = torch.randn(tensors["v"].shape, generator=torch.Generator().manual_seed(2))
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype).requires_grad_() for t in tensors.values()]
        q, k, v, bias, values = leaves
        if dtype == torch.float32:
            out, memory = triton_impl.run_with_memory(q, k, v, bias, *settings)
            second = triton_impl.apply_again(q, k, values + out, bias, memory, *settings)
        else:
            weights = reference.attention_map(q, k, bias, *settings)
            out = reference.apply_map(weights, v, *settings[:2])
            second = reference.apply_map(weights, values + out, *settings[:2])
        results.append(differentiate(out * second, leaves))
    return {name: norm_error(*pair) for name, *pair in zip(("out", *tensors), *results, strict=True)}


def test_one_map_applied_twice_has_the_gradients_of_a_stored_map(interpreted: Callable[..., Any]) -> None:
    judge(interpreted(run_twice_applied), 2e-5)


def run_many_images() -> dict[str, float]:
    """Return the errors where a program sums the bias gradient over several tiles and images."""
    from a2mamba.ops.neighborhood import triton_launches

    with mock.patch.object(triton_launches, "BIAS_PROGRAMS", 1), mock.patch.object(triton_launches, "ITEMS", 5):
        return run_case(Case(size=(17, 18), window=(3, 3), dilation=(1, 2), batch=2))


def test_bias_gradient_summed_over_tiles_and_images(interpreted: Callable[..., Any]) -> None:
    judge(interpreted(run_many_images), 2e-5)


def run_moved() -> dict[str, float]:
    """Return the errors where a hook hands back what the forward saved in another layout, as offloading does."""
    from a2mamba.ops.neighborhood import triton_impl

    tensors, settings = make(Case(size=(6, 7), window=(3, 3), heads=2))
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype).requires_grad_() for t in tensors.values()]
        attend: Callable[..., Tensor] = triton_impl.run if dtype == torch.float32 else reference.neighborhood_attention
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.contiguous(), lambda x: x):
            out = attend(*leaves, *settings)
        results.append(differentiate(out, leaves))
    return {name: norm_error(*pair) for name, *pair in zip(("out", *tensors), *results, strict=True)}


def test_saved_tensors_may_come_back_in_another_layout(interpreted: Callable[..., Any]) -> None:
    judge(interpreted(run_moved), 2e-5)


def run_far_heads() -> float:
    """Return the error where the heads of one image lie further apart than int32 counts.

    The memory is never touched but where the heads are, so it need not be there.
    """
    from a2mamba.ops.neighborhood import triton_impl

    heads, size, window, dilation = 3, (4, 5), (3, 3), (1, 1)
    apart = 2**30 + 64
    memory = torch.empty(2 * apart + 4096, dtype=torch.float16)
    near = torch.randn(1, heads, *size, 3 * 8, generator=torch.Generator().manual_seed(0)).half()
    far = memory.as_strided(near.shape, (0, apart, size[1] * 24, 24, 1))
    far.copy_(near)
    results = []
    for whole in (far, near):
        q, k, v = whole.split(8, dim=-1)
        assert triton_impl.why_not(q, k, v, None, window, dilation, 1.0) is None
        results.append(triton_impl.run(q, k, v, None, window, dilation, 1.0))
    return norm_error(*results)


def test_heads_further_apart_than_int32_counts(interpreted: Callable[..., Any]) -> None:
    assert interpreted(run_far_heads) == 0


def run_operator_checks() -> None:
    from a2mamba.ops.neighborhood import triton_impl

    tensors, (window, dilation, scale) = make(Case(size=(4, 5), window=(3, 3), heads=2))
    leaves = [t.detach().requires_grad_() for t in tensors.values()]
    arguments = (*leaves, list(window), list(dilation), scale)
    torch.library.opcheck(triton_impl._forward, arguments)
    lse = triton_impl._forward(*arguments)[1].detach()
    torch.library.opcheck(triton_impl._again, (*leaves, lse, *arguments[4:]))


def test_registration(interpreted: Callable[..., Any]) -> None:
    interpreted(run_operator_checks)


def run_compiled() -> float:
    from a2mamba.ops.neighborhood import triton_impl

    tensors, settings = make(Case(size=(4, 5), window=(3, 3)))

    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        assert triton_impl.why_not(q, k, v, bias, *settings) is None
        return triton_impl.run(q, k, v, bias, *settings) * 2

    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")
    return norm_error(compiled(*tensors.values()), forward(*tensors.values()))


def test_compiles_without_a_graph_break(interpreted: Callable[..., Any]) -> None:
    assert interpreted(run_compiled) == 0


def run_why_not(change: dict[str, Any]) -> str | None:
    from a2mamba.ops.neighborhood import triton_impl

    tensors, (window, dilation, scale) = make(Case(size=(4, 5), window=(3, 3)))
    q, k, v, bias = (change.get(name, tensor) for name, tensor in tensors.items())
    return triton_impl.why_not(q, k, v, bias, change.get("window", window), dilation, scale)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        ({"q": torch.zeros(1, 1, 4, 5, 8, dtype=torch.float64)}, "float64"),
        ({"k": torch.zeros(1, 1, 4, 5, 8, dtype=torch.bfloat16)}, "share a dtype"),
        ({"v": torch.zeros(1, 1, 4, 5, 65)}, "65"),
        ({"window": (3, 15)}, "13"),
    ],
)
def test_refusals_name_what_was_found(change: dict[str, Any], phrase: str, interpreted: Callable[..., Any]) -> None:
    reason = interpreted(run_why_not, change)
    assert reason is not None
    assert phrase in reason
