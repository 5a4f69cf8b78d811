"""The operators without a gradient of their own: GELU with a depthwise convolution, the readout, the gated norm."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from a2mamba.export.comparison import torch_threads
from a2mamba.ops import dispatch, feed_forward, gated_norm, gelu_depthwise, numba_threads, read_out, readout, self_test
from a2mamba.ops.feed_forward import numba_impl as feed_forward_impl
from a2mamba.ops.readout import numba_impl as readout_impl
from support import needs_numba, relative_error

Call = tuple[str, Callable[..., Tensor], Callable[..., tuple[Any, ...]]]

CALLS: list[Any] = [
    *(pytest.param("gelu_depthwise", gelu_depthwise, case.inputs, id=f"gelu-{case}") for case in feed_forward.CASES),
    *(pytest.param("read_out", read_out, case.read_out_inputs, id=f"read-{case}") for case in readout.CASES),
    *(pytest.param("gated_norm", gated_norm, case.gated_norm_inputs, id=f"gated-{case}") for case in readout.CASES),
]
BACKENDS = "numba", "torch"

every_call = pytest.mark.parametrize(("name", "operator", "inputs"), CALLS)
one_of_each = pytest.mark.parametrize(("name", "operator", "inputs"), [CALLS[1], CALLS[7], CALLS[14]])


pytestmark = pytest.mark.usefixtures("one_thread")


def leaves(arguments: Any) -> list[Tensor]:
    """Return the tensors among nested arguments."""
    if isinstance(arguments, Tensor):
        return [arguments]
    if isinstance(arguments, nn.Module):
        return list(arguments.parameters())
    return [leaf for each in arguments for leaf in leaves(each)] if isinstance(arguments, tuple) else []


def changed(arguments: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return nested arguments, their tensors changed; those of modules in place."""
    if isinstance(arguments, tuple):
        return tuple(changed(each, change) for each in arguments)
    if isinstance(arguments, nn.Module):
        for leaf in (*arguments.parameters(), *arguments.buffers()):
            if leaf.is_floating_point():
                leaf.data = change(leaf.data)
    return change(arguments) if isinstance(arguments, Tensor) else arguments


@needs_numba
@every_call
def test_backends_agree_with_reference(name: str, operator: Any, inputs: Any) -> None:
    expected = operator(*inputs(torch.float64), backend="reference")
    for backend in BACKENDS:
        with torch.no_grad():
            found = operator(*inputs(), backend=backend)
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        assert not found.numel() or relative_error(found, expected) < 2e-6


@needs_numba
@every_call
@torch.no_grad()
def test_bfloat16_is_read_and_written(name: str, operator: Any, inputs: Any) -> None:
    """To the rounding of the result: sums and functions are float32."""
    rounded = inputs(torch.bfloat16)
    found = operator(*rounded, backend="numba")
    assert found.dtype == (torch.float32 if name == "read_out" else torch.bfloat16)
    expected = operator(*changed(rounded, torch.Tensor.double), backend="reference")
    assert not found.numel() or relative_error(found, expected) < (2e-6 if name == "read_out" else 4e-3)


@needs_numba
@torch.no_grad()
def test_maps_in_bfloat16_beside_norms_in_float32() -> None:
    """As under autocast, where what convolutions make is rounded."""
    x, added, gate, gate_norm, norm, out_norm = MAP.gated_norm_inputs()
    added, gate = added.bfloat16(), gate.bfloat16()
    expected = gated_norm(x, added.float(), gate.float(), gate_norm, norm, out_norm, backend="reference")
    for dtype, tolerance in ((None, 2e-6), (torch.bfloat16, 4e-3)):
        found = gated_norm(x, added, gate, gate_norm, norm, out_norm, dtype=dtype, backend="numba")
        assert found.dtype == (dtype or torch.float32)
        assert relative_error(found, expected) < tolerance


@needs_numba
@pytest.mark.parametrize("case", feed_forward.CASES, ids=str)
@torch.no_grad()
def test_the_residual_convolution_in_half_precision(case: feed_forward.Case) -> None:
    x, weight, bias = case.inputs(torch.bfloat16)
    found = feed_forward.residual_depthwise(x, weight, bias, backend="numba")
    assert found.dtype == torch.bfloat16
    expected = feed_forward.residual_depthwise(x.double(), weight.double(), bias.double(), backend="reference")
    assert not found.numel() or relative_error(found, expected) < 4e-3
    with torch.autocast("cpu", torch.bfloat16):
        found = feed_forward.residual_depthwise(x.float(), weight.float(), bias.float(), backend="numba")
    assert found.dtype == torch.float32
    assert not found.numel() or relative_error(found, expected) < 2e-6


def test_the_residual_convolution_says_what_it_cannot_run() -> None:
    x, weight, bias = CASE.inputs()
    with torch.no_grad():
        assert "one pass too" in str(feed_forward.explain_residual(x, weight, bias)[1].reason)
        five = feed_forward.explain_residual(x.bfloat16(), torch.zeros(16, 1, 5, 5), bias)[1].reason
    assert five == "the kernel must be 3 x 3, got 5 x 5"
    with pytest.raises(ValueError, match=r"must be .* got \(2, 16, 5, 9\), \(15, 1, 3, 3\)"):
        feed_forward.residual_depthwise(x, weight[:15], bias)


@every_call
def test_references_read_like_the_paper(name: str, operator: Any, inputs: Any) -> None:
    """Position by position, in the plainest words."""
    arguments = inputs(torch.float64)
    found = operator(*arguments, backend="reference")
    if not found.numel():
        return
    batch, y, x = 0, found.shape[2] - 1, 0
    if name == "gelu_depthwise":
        source, weight, bias = arguments
        expected = F.gelu(source[batch, :, y, x]) + bias
        for i in range(3):
            for j in range(3):
                row, column = y + i - 1, x + j - 1
                if 0 <= row < source.shape[2] and 0 <= column < source.shape[3]:
                    expected = expected + weight[:, 0, i, j] * F.gelu(source[batch, :, row, column])
    elif name == "read_out":
        (first, second), weight, bias, readings, u, skip = arguments
        states = torch.cat((first, second), dim=1)[batch, :, y, x]
        mixed = torch.stack([sum(w * s for w, s in zip(row, states, strict=True)) for row in weight]) + bias[:, None]
        expected = mixed.flatten() * readings[batch, y, x] + skip * u[batch, :, y, x]
    else:
        source, added, gate, gate_norm, norm, out_norm = arguments
        scaled = (gate[batch, :, y, x] - gate_norm.running_mean) / (gate_norm.running_var + gate_norm.eps).sqrt()
        gate = F.silu(scaled * gate_norm.weight + gate_norm.bias)

        def normed(values: Tensor, norm: nn.LayerNorm) -> Tensor:
            normal = (values - values.mean()) / (values.var(unbiased=False) + norm.eps).sqrt()
            return normal * norm.weight + norm.bias

        inner = (normed(source[batch, :, y, x], norm) + added[batch, :, y, x]) * gate
        expected = normed(inner, out_norm)
    assert relative_error(found[batch, :, y, x], expected) < 1e-12


@every_call
def test_where_gradients_are_wanted_plain_operations_run(name: str, operator: Any, inputs: Any) -> None:
    arguments = inputs(torch.float64)
    for leaf in leaves(arguments):
        leaf.requires_grad_()
    found = operator(*arguments)
    expected = operator(*arguments, backend="reference")
    grads = [torch.autograd.grad(out.square().sum(), leaves(arguments)) for out in (found, expected)]
    for ours, right in zip(*grads, strict=True):
        assert torch.allclose(ours, right, rtol=1e-9, atol=1e-9)


@needs_numba
@one_of_each
def test_threads_do_not_change_a_bit(name: str, operator: Any, inputs: Any) -> None:
    results = []
    for count in (1, 2, 3):
        with torch.no_grad(), torch_threads(count):
            results.append(operator(*inputs(), backend="numba"))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@needs_numba
@one_of_each
def test_every_output_is_written_and_no_stale_memory_read(
    name: str, operator: Any, inputs: Any, poison: Callable[[], None]
) -> None:
    with torch.no_grad():
        expected = operator(*inputs(), backend="numba")
    poison()
    with torch.no_grad():
        assert torch.equal(operator(*inputs(), backend="numba"), expected)


@needs_numba
@one_of_each
def test_memory_of_any_order(name: str, operator: Any, inputs: Any) -> None:
    def outermost(x: Tensor) -> Tensor:
        return x.transpose(0, -1).contiguous().transpose(0, -1)

    def every_second(x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, [2 * stride for stride in x.stride()]).copy_(x)

    with torch.no_grad():
        expected = operator(*inputs(), backend="numba")
        for change in (outermost, every_second):
            assert torch.equal(operator(*changed(inputs(), change), backend="numba"), expected)


@needs_numba
@every_call
def test_axes_of_one_entry_have_any_stride(name: str, operator: Any, inputs: Any) -> None:
    def strange(x: Tensor) -> Tensor:
        strides = [7919 if size == 1 else s for size, s in zip(x.shape, x.stride(), strict=True)]
        return x.as_strided(x.shape, strides)

    with torch.no_grad():
        found = operator(*changed(inputs(), strange), backend="numba")
        assert torch.equal(found, operator(*inputs(), backend="numba"))


@needs_numba
def test_gelu_far_from_zero_and_of_what_is_no_number() -> None:
    values = torch.tensor([0.0, -0.0, 1e-30, 5.59, -5.59, 5.61, -5.61, 40, -40, 1e20, -1e20, torch.inf, -1e38])
    x = torch.cat((values, torch.linspace(-8, 8, 1003)))
    channels = 8 * len(x)
    with torch.no_grad():
        # One position of many channels: its neighbors are zeros.
        spread = x.repeat_interleave(8).view(1, channels, 1, 1)
        found = gelu_depthwise(spread, torch.zeros(channels, 1, 3, 3), torch.zeros(channels), backend="numba")
        poisoned = gelu_depthwise(
            torch.full((1, 8, 1, 1), torch.nan), torch.zeros(8, 1, 3, 3), torch.zeros(8), backend="numba"
        )
    expected = F.gelu(x.double())
    found = found.view(-1, 8)[:, 0].double()
    finite = expected.isfinite()
    assert ((found - expected)[finite].abs() <= 1e-6 * expected[finite].abs().clamp(min=1)).all()
    assert (found[~finite] == torch.inf).all()
    assert poisoned.isnan().all()


CASE, MAP = feed_forward.CASES[1], readout.CASES[1]


@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (gelu_depthwise, CASE.inputs(torch.float64), "must be float32 or bfloat16 on the cpu, got torch.float64"),
        (gelu_depthwise, feed_forward.Case(1, 6, 2, 2).inputs(), "the width must be a multiple of 8, got 6"),
        (read_out, readout.Case(1, 2, 12, 2, 2).read_out_inputs(), "the width must be a multiple of 8, got 12"),
        (read_out, (MAP.read_out_inputs()[0][:1], torch.zeros(1, 1), *[None] * 4), "two equal halves"),
        (gated_norm, MAP.gated_norm_inputs(torch.float16), "got torch.float16 on cpu"),
        (gated_norm, readout.Case(1, 2, 2, 2, 2).gated_norm_inputs(), "a multiple of 8, got 4"),
    ],
)
def test_what_numba_cannot_run_is_named(
    operator: Any, arguments: tuple[Any, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "HAS_NUMBA", True)
    if arguments[-1] is None:  # one half of the heads
        halves, _, _, readings, u, skip = MAP.read_out_inputs()
        arguments = (halves[:1], torch.zeros(1, 1), torch.zeros(1), readings, u[:, :16], skip[:16])
    with torch.no_grad(), pytest.raises(ValueError, match=message):
        operator(*arguments, backend="numba")


@needs_numba
@pytest.mark.parametrize(("name", "operator", "inputs"), [CALLS[7], CALLS[14]])
def test_with_a_gradient_numba_declines(name: str, operator: Any, inputs: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}: backend 'numba' cannot run because a gradient, a graph"):
        operator(*inputs(), backend="numba")


def gradients_of_gelu_depthwise(case: feed_forward.Case, dtype: torch.dtype, backend: str) -> list[Tensor]:
    arguments = [t.requires_grad_() for t in case.inputs(dtype)]
    out = gelu_depthwise(*arguments, backend=backend)
    weights = torch.linspace(-7, 7, out.numel(), dtype=torch.float64).cos().view(out.shape).to(dtype)
    return list(torch.autograd.grad(out, arguments, weights))


@needs_numba
@pytest.mark.parametrize("case", feed_forward.CASES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2)])
def test_the_gradient_of_gelu_with_its_convolution(
    case: feed_forward.Case, dtype: torch.dtype, tolerance: float
) -> None:
    expected = gradients_of_gelu_depthwise(case, torch.float64, "reference")
    found = gradients_of_gelu_depthwise(case, dtype, "numba")
    for ours, right in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        assert ours.shape == right.shape
        assert relative_error(ours, right) < tolerance
    with torch_threads(3):
        again = gradients_of_gelu_depthwise(case, dtype, "numba")
    assert all(torch.equal(one, other) for one, other in zip(again, found, strict=True))


@needs_numba
def test_the_slope_of_gelu_far_from_zero_and_of_what_is_no_number() -> None:
    """Around the reach of its polynomials, beyond it, and for NaN; without a convolution that is the gradient."""
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e30, -100.0, 100.0, 1e30, torch.nan])])
    spread = x[:, None, None, None].expand(-1, 8, 1, 1).contiguous().requires_grad_()
    out = gelu_depthwise(spread, torch.zeros(8, 1, 3, 3), torch.zeros(8), backend="numba")
    (found,) = torch.autograd.grad(out, spread, torch.ones_like(out))
    exact = x.double().requires_grad_()
    (expected,) = torch.autograd.grad(F.gelu(exact).sum(), exact)
    assert found[-1].isnan().all()
    assert (found[:-1, :, 0, 0] - expected[:-1, None]).abs().max() < 2e-6


def test_shapes_that_do_not_fit_are_named() -> None:
    x, weight, bias = CASE.inputs()
    with pytest.raises(ValueError, match=r"x, weight and bias must be .* got \(2, 16, 5, 9\), \(15, 1, 3, 3\)"):
        gelu_depthwise(x, weight[:15], bias)
    states, weight, bias, readings, u, skip = MAP.read_out_inputs()
    with pytest.raises(ValueError, match=r"states must be \(B, heads, H, W, d\) with \(2, 9, 13, 16\)"):
        read_out((states[0][:, :, 1:], states[1]), weight, bias, readings, u, skip)
    with pytest.raises(ValueError, match=r"skip must have shape \(32,\), got \(31,\)"):
        read_out(states, weight, bias, readings, u, skip[1:])
    maps = MAP.gated_norm_inputs()
    with pytest.raises(ValueError, match=r"x, added and gate must have one shape"):
        gated_norm(maps[0], maps[1][1:], *maps[2:])


@needs_numba
@torch.no_grad()
def test_norms_that_a_kernel_cannot_stand_for() -> None:
    maps = MAP.gated_norm_inputs()
    channels = maps[0].shape[1]

    def objection(out_norm: Any) -> str | None:
        return readout.explain_gated_norm(*maps[:5], out_norm)[1].reason

    assert objection(maps[5]) is None
    for gate_norm, reason in (
        (nn.BatchNorm2d(channels), "must be in evaluation mode"),
        (nn.BatchNorm2d(2).eval(), "must be in evaluation mode and have 32 channels"),
        (nn.BatchNorm2d(channels, track_running_stats=False).eval(), "with weight, bias and statistics, got BatchNorm"),
        (nn.ReLU(), "got ReLU"),
    ):
        assert reason in str(readout.explain_gated_norm(*maps[:3], gate_norm, *maps[4:])[1].reason)
    x, added, gate, _, norm, last = maps
    expected = gated_norm(x, added, gate, nn.Identity(), norm, last, backend="reference")
    assert relative_error(gated_norm(x, added, gate, nn.Identity(), norm, last, backend="numba"), expected) < 2e-6
    assert objection(nn.BatchNorm2d(channels)) == (
        "the norms must be LayerNorms with weight and bias, got ['ChannelNorm', 'BatchNorm2d']"
    )
    assert "with weight and bias" in str(objection(nn.LayerNorm(channels, bias=False)))
    assert "with weight and bias" in str(objection(nn.LayerNorm(channels, elementwise_affine=False)))
    parametrized = register_parametrization(nn.LayerNorm(channels), "weight", nn.Identity())
    assert "with weight and bias" in str(objection(parametrized))
    assert "must have shape (32,), got [(32,), (32,), (2,), (2,)]" in str(objection(nn.LayerNorm(2)))
    assert "added to variances, got 1e-06 and 0.1" in str(objection(nn.LayerNorm(channels, eps=0.1)))
    seen: list[object] = []
    maps[5].register_forward_hook(lambda *arguments: seen.append(arguments))
    assert objection(maps[5]) == "a forward hook waits for the call of a norm"
    gated_norm(*maps)
    assert len(seen) == 1


SUBCLASS = """
import sys, torch
from torch.testing._internal.two_tensor import TwoTensor
import a2mamba
from a2mamba.ops import neighborhood, readout, feed_forward, selective_scan
torch.manual_seed(0)
operators = {
    "read_out": (readout.explain_read_out, a2mamba.ops.read_out, readout.CASES[1].read_out_inputs()),
    "gelu_depthwise": (feed_forward.explain_backends, a2mamba.ops.gelu_depthwise, feed_forward.CASES[1].inputs()),
}
def two(x): return TwoTensor(x, x.clone())
with torch.no_grad():
    for name, (explain, operator, inputs) in operators.items():
        changed = list(inputs)
        changed[1] = two(changed[1])
        assert explain(*changed)[1].reason == "it takes plain tensors, and one is a TwoTensor", name
        assert torch.allclose(operator(*changed).a, operator(*inputs), rtol=1e-4, atol=1e-5), name
    scan = selective_scan.CASES[2].inputs()
    found = a2mamba.ops.selective_scan_state(*scan[:2], two(scan[2]), *scan[3:])
    assert torch.allclose(found.a, a2mamba.ops.selective_scan_state(*scan), rtol=1e-4, atol=1e-5)
    q, k, v, bias = neighborhood.CASES[4].inputs()
    found, right = (a2mamba.ops.neighborhood_attention(q, k, v, b, kernel_size=7) for b in (two(bias), bias))
    assert torch.allclose(found.a, right, rtol=1e-4, atol=1e-5)

    model, x = a2mamba.create_model("a2mamba_test", num_classes=5).eval(), torch.randn(1, 3, 64, 64)
    right = model(x)
    for parameter in list(model.named_parameters()):
        owner, _, name = parameter[0].rpartition(".")
        setattr(model.get_submodule(owner), name, torch.nn.Parameter(two(parameter[1].data), requires_grad=False))
    assert torch.allclose(model(x).b, right, rtol=1e-3, atol=1e-4)
print("alive")
"""


@needs_numba
def test_a_tensor_subclass_reaches_no_kernel() -> None:
    """By its address it would: what lies there is not what the subclass stands for. In a process that may crash."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SUBCLASS], capture_output=True, text=True, timeout=300)
    assert done.stdout == "alive\n", done.stderr


@needs_numba
@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("gelu_depthwise", feed_forward_impl, "forward"),
        ("read_out", readout_impl, "read_out"),
        ("gated_norm", readout_impl, "gated_norm"),
    ],
)
def test_a_wrong_kernel_is_switched_off(
    name: str, module: Any, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    self_test.forget()
    right = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *arguments: 1.01 * right(*arguments))
    try:
        with pytest.warns(RuntimeWarning, match=f"{name}/numba: the Numba kernels are switched off"):
            reason = self_test.passed(f"{name}/numba", torch.device("cpu"))
        assert reason == "their output differs from the reference by 1.0e-02 of its norm (inputs torch.float32)"
    finally:
        self_test.forget()
    assert os.listdir(tmp_path) == [], "the next process asks again"


@needs_numba
def test_one_pool_of_threads_for_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel takes what ``numba_threads`` gives, and no more workers than there is work."""
    for name in ("gelu_depthwise", "gated_norm"):
        assert self_test.passed(f"{name}/numba", torch.device("cpu")) is None
    asked: list[int] = []
    right = numba_threads.call

    def call(kernel: int, argument: int, workers: int) -> None:
        asked.append(workers)
        right(kernel, argument, 1)

    monkeypatch.setattr(numba_threads, "call", call)
    with torch.no_grad(), torch_threads(5):
        gelu_depthwise(*feed_forward.CASES[0].inputs(), backend="numba")
        gelu_depthwise(*feed_forward.CASES[3].inputs(), backend="numba")
        gated_norm(*readout.CASES[0].gated_norm_inputs(), backend="numba")
        gated_norm(*MAP.gated_norm_inputs(), backend="numba")
    assert asked == [1, 5, 1, 4]
