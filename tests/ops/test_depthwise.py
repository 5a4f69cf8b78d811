"""The gradient of 5 x 5 depthwise convolutions by Numba: against the reference, cast, in threads, declined."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor

from a2mamba.export.comparison import torch_threads
from a2mamba.layers.depthwise import DepthwiseConv
from a2mamba.ops import depthwise, depthwise_conv, numba_threads
from a2mamba.ops.depthwise import numba_impl
from a2mamba.ops.depthwise.cases import Case
from support import needs_numba, relative_error

CASES = (Case(2, 8, 1, 1, 5), Case(1, 40, 7, 2, 5), Case(3, 24, 14, 17, 5), Case(0, 8, 3, 3, 5))
"""One position, maps narrower than the kernel, items that channels fill and do not, none."""


def results(case: Case, dtype: torch.dtype, backend: str) -> list[Tensor]:
    leaves = [t.requires_grad_() for t in case.inputs(dtype)]
    out = depthwise_conv(*leaves, backend=backend)
    weights = torch.linspace(-7, 7, out.numel(), dtype=torch.float64).cos().view(out.shape).to(dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, weights)]


@needs_numba
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)])
def test_gradients_agree_with_reference(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    for found, right in zip(results(case, dtype, "numba"), results(case, torch.float64, "torch"), strict=True):
        assert found.dtype == dtype
        assert found.shape == right.shape
        assert relative_error(found, right) < tolerance


@needs_numba
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_order_and_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    x, grad = (Case(3, 40, 9, 12, 5).inputs(dtype, seed=seed)[0] for seed in (0, 1))
    expected = numba_impl.weight_gradients(grad, x, 5)
    for count in (1, 2, 3):
        with torch_threads(count):
            for layout in (torch.contiguous_format, torch.channels_last):
                laid_out = [t.contiguous(memory_format=layout) for t in (grad, x)]
                found = numba_impl.weight_gradients(laid_out[0], laid_out[1], 5)
                assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@needs_numba
@pytest.mark.parametrize(
    ("half", "dtype"),
    [(True, torch.float32), (True, torch.bfloat16), (False, torch.float32)],
    ids=["autocast", "inside autocast", "float32"],
)
def test_a_layer_trains_with_it(half: bool, dtype: torch.dtype) -> None:
    """Gradients have the dtypes of the leaves, and are no further from the exact ones than PyTorch's own."""
    torch.manual_seed(0)
    layer, x = DepthwiseConv(16, 5), torch.randn(2, 16, 9, 9).to(dtype).requires_grad_()
    leaves = [x, *layer.parameters()]
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    exact = torch.autograd.grad(depthwise_conv(*exact_leaves).square().sum(), exact_leaves)
    with mock.patch.object(numba_threads, "call", wraps=numba_threads.call) as call:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = layer(x)
        assert out.dtype == (torch.bfloat16 if half else torch.float32)
        found = torch.autograd.grad(out.float().square().sum(), leaves)
        assert call.call_count == 1
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            layer(x)
        assert call.call_count == 1
    for each, right, leaf in zip(found, exact, leaves, strict=True):
        assert each.dtype == leaf.dtype
        assert relative_error(each, right) < (1e-2 if half else 1e-6)


@needs_numba
def test_why_not() -> None:
    x, weight, bias = (t.requires_grad_() for t in CASES[2].inputs())

    def reason(*arguments: Tensor) -> str | None:
        return next(choice.reason for choice in depthwise.explain_backends(*arguments) if choice.backend == "numba")

    assert reason(x, weight, bias) is None
    assert "none is wanted" in str(reason(x, weight.detach(), bias.detach()))
    assert "5 x 5, got 3 x 3" in str(reason(x, weight[..., 1:4, 1:4], bias))
    assert "float64" in str(reason(x.double(), weight.double(), bias.double()))
    assert "torch.float32, torch.bfloat16" in str(reason(x, weight.bfloat16(), bias))
    assert "multiple of 8, got 6" in str(reason(x[:, :6], weight[:6], bias[:6]))
    with torch.no_grad():
        assert "none is wanted" in str(reason(x, weight, bias))


@pytest.mark.parametrize("backend", [None, "torch"])
def test_silu_of_the_convolution(backend: str | None) -> None:
    tensors = Case(2, 24, 5, 7, 5).inputs()
    found = depthwise_conv(*tensors, silu=True, backend=backend)
    torch.testing.assert_close(found, torch.nn.functional.silu(depthwise_conv(*tensors)))
