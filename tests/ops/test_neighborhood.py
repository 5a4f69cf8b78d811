"""Neighborhood attention: the specification against the original library, every backend against the specification."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from a2mamba.ops import neighborhood_attention
from a2mamba.ops.neighborhood import reference, torch_impl
from a2mamba.ops.neighborhood.cases import CASES, Case
from support import normal, poisoned_empty, relative_error, stored

ids = pytest.mark.parametrize("case", CASES, ids=str)


def outputs_and_gradients(case: Case, backend: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    tensors = dict(zip(("q", "k", "v", "bias"), case.inputs(dtype), strict=True))
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}
    out = neighborhood_attention(
        leaves["q"],
        leaves["k"],
        leaves["v"],
        leaves.get("bias"),
        kernel_size=case.kernel_size,
        dilation=case.dilation,
        backend=backend,
    )
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((out * weights).sum(), list(leaves.values()))
    return {"out": out.detach()} | {f"grad {name}": g for name, g in zip(leaves, gradients, strict=True)}


@pytest.mark.parametrize("number", range(7))
def test_reference_reproduces_the_original_library(number: int) -> None:
    expected = stored(f"neighborhood_{number}")
    batch, heads, height, width, d, kernel, *dilation = expected["shape"].tolist()
    shape = (batch, heads, height, width, d)
    q, k, v = (normal(f"na{number}.{name}", *shape).double().requires_grad_() for name in "qkv")
    bias = (0.5 * normal(f"na{number}.rpb", heads, 2 * kernel - 1, 2 * kernel - 1)).double().requires_grad_()
    window = (kernel, kernel)
    attention = reference.attention_map(q, k, bias, window, tuple(dilation), d**-0.5)
    out = reference.apply_map(attention, v, window, tuple(dilation))
    (out * normal(f"na{number}.g", *shape)).sum().backward()
    found = {
        "out": out,
        "attn_corner": attention[:, :, 0, 0].flatten(2),
        "attn_center": attention[:, :, height // 2, width // 2].flatten(2),
        "grad_q": q.grad,
        "grad_k": k.grad,
        "grad_v": v.grad,
        "grad_r": bias.grad,
    }
    for name, tensor in found.items():
        assert tensor is not None
        target = torch.from_numpy(expected[name])
        thinned = tensor if tensor.shape == target.shape else tensor[..., ::2, ::2, :]
        assert relative_error(thinned.detach(), target) < 1e-5, name


@ids
def test_torch_agrees_with_reference(case: Case) -> None:
    expected = outputs_and_gradients(case, "reference")
    found = outputs_and_gradients(case, "torch")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.shape == expected[name].shape, name
        assert relative_error(tensor, expected[name]) < 1e-10, name


@ids
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 3e-2)])
def test_torch_in_lower_precision(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    expected = outputs_and_gradients(case, "reference")
    for name, tensor in outputs_and_gradients(case, "torch", dtype).items():
        assert tensor.dtype == dtype, name
        assert relative_error(tensor, expected[name]) < tolerance, name


def test_strips_are_chunked_without_changing_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(2, 2, 40, 33, 8, (5, 5), (2, 1))
    expected = outputs_and_gradients(case, "reference")
    monkeypatch.setattr(torch_impl, "KEYS_PER_CHUNK", 1)
    monkeypatch.setattr(torch_impl, "SCORES_PER_CHUNK", 1)
    for name, tensor in outputs_and_gradients(case, "torch").items():
        assert relative_error(tensor, expected[name]) < 1e-10, name


def test_every_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that an implementation forgets to fill would show as NaN."""
    monkeypatch.setattr(torch, "empty", poisoned_empty)
    for case in CASES:
        for name, tensor in outputs_and_gradients(case, "torch").items():
            assert tensor.isfinite().all(), (case, name)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gradcheck(backend: str) -> None:
    case = Case(1, 1, 5, 6, 2, (3, 5), (2, 1), e=3)
    q, k, v, bias = (t.requires_grad_() for t in case.inputs(torch.float64) if t is not None)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return neighborhood_attention(
            q, k, v, bias, kernel_size=case.kernel_size, dilation=case.dilation, backend=backend
        )

    assert torch.autograd.gradcheck(attend, (q, k, v, bias))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("case", [CASES[1], CASES[7], CASES[9]], ids=str)
def test_registration(case: Case) -> None:
    """Fake, autograd and schema agree with what the operator does: torch.compile and export rely on them."""
    arguments = (
        *(t if t is None else t.requires_grad_() for t in case.inputs()),
        [*case.kernel_size],
        [*case.dilation],
        0.3,
    )
    torch.library.opcheck(torch.ops.a2mamba.neighborhood_attention.default, arguments)


def test_weights_sum_to_one_and_windows_shift_at_borders() -> None:
    q = torch.zeros(1, 1, 9, 9, 4)
    attention = reference.attention_map(q, q, None, (3, 3), (2, 2), 1.0)
    torch.testing.assert_close(attention.flatten(-2).sum(-1), torch.ones(1, 1, 9, 9))
    rows, offsets = reference.axis_neighbors(9, 3, 2)
    assert rows[0].tolist() == [0, 2, 4]
    assert offsets[0].tolist() == [0, 1, 2]
    assert rows[4].tolist() == [2, 4, 6]
    assert rows[7].tolist() == [3, 5, 7]
    assert offsets[7].tolist() == [-2, -1, 0]


def test_window_covers_maps_smaller_than_itself() -> None:
    q, k, v, bias = Case(1, 1, 4, 3, 8, (7, 7), (3, 2)).inputs(torch.float64)
    assert bias is not None
    scores = 8**-0.5 * q.flatten(2, 3) @ k.flatten(2, 3).mT
    y, x = torch.arange(4).repeat_interleave(3), torch.arange(3).repeat(4)
    scores = scores + bias[:, y - y[:, None] + 6, x - x[:, None] + 6]
    expected = (scores.softmax(-1) @ v.flatten(2, 3)).view_as(v)
    for backend in ("reference", "torch"):
        found = neighborhood_attention(q, k, v, bias, kernel_size=7, dilation=(3, 2), backend=backend)
        torch.testing.assert_close(found, expected)


def test_large_maps_take_little_memory() -> None:
    """No (H W)^2 mask and no K^2-fold copy: plans and chunks of a 512 x 512 map stay small."""
    plan = torch_impl.make_plan((512, 512), 1, (11, 11), (1, 1), torch.device("cpu"))
    stored_map = 512 * 512 * 11 * 11
    assert sum(group.bias_index.numel() for group in plan.groups) < stored_map / 7
    assert sum(group.keys.numel() for group in plan.groups) < stored_map / 15


def test_values_of_another_dtype() -> None:
    q, k, v, bias = Case(1, 1, 8, 8, 8, (3, 3)).inputs(torch.bfloat16)
    out = neighborhood_attention(q, k, v.float(), bias, kernel_size=3)
    assert out.dtype == torch.float32
    expected = neighborhood_attention(
        q.double(), k.double(), v.double(), bias.double() if bias is not None else None, kernel_size=3
    )
    assert relative_error(out, expected) < 1e-5


def test_autocast_does_not_change_the_precision_inside() -> None:
    q, k, v, bias = Case(1, 1, 8, 8, 8, (3, 3)).inputs()
    plain = neighborhood_attention(q, k, v, bias, kernel_size=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain, neighborhood_attention(q, k, v, bias, kernel_size=3))


X = torch.zeros(1, 2, 6, 6, 8)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, X, X), {"kernel_size": 4}, "kernel_size must be odd"),
        ((X, X, X), {"kernel_size": (3, 3, 3)}, "kernel_size must be one positive integer or two"),
        ((X, X, X), {"kernel_size": 3, "dilation": 0}, "dilation must be"),
        ((X, X[..., :4], X), {"kernel_size": 3}, "must agree in all but the last axis"),
        ((X, X, X[:, :1]), {"kernel_size": 3}, "must agree in all but the last axis"),
        ((X[:, :, :0], X[:, :, :0], X[:, :, :0]), {"kernel_size": 3}, "at least 1 x 1"),
        ((X, X.double(), X), {"kernel_size": 3}, "share a floating dtype"),
        ((X, X, X, torch.zeros(2, 7, 7)), {"kernel_size": 3}, r"bias must have shape \(2, 5, 5\)"),
        ((X, X, X), {"kernel_size": 3, "backend": "cuda"}, "unknown backend 'cuda'"),
    ],
)
def test_bad_input_is_named(arguments: tuple[Tensor, ...], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(*arguments, **options)
