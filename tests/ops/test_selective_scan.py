"""The selective scan: the specification against stored numbers, every backend against the specification."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from a2mamba.ops import selective_scan_state
from a2mamba.ops.selective_scan.cases import CASES, Case
from a2mamba.ops.selective_scan.torch_impl import linear_recurrence
from support import normal, reference_tensor, relative_error, stored

ids = pytest.mark.parametrize("case", CASES, ids=str)
NAMES = ("u", "delta", "A", "B", "delta_bias")


def outputs_and_gradients(case: Case, backend: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    tensors = dict(zip(NAMES, case.inputs(dtype), strict=True))
    leaves = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}
    states = selective_scan_state(
        leaves["u"],
        leaves["delta"],
        leaves["A"],
        leaves["B"],
        leaves.get("delta_bias"),
        delta_softplus=case.softplus,
        backend=backend,
    )
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((states * weights).sum(), list(leaves.values()))
    return {"states": states.detach()} | {f"grad {name}": g for name, g in zip(leaves, gradients, strict=True)}


@pytest.mark.parametrize("number", range(5))
def test_reference_reproduces_stored_numbers(number: int) -> None:
    expected = {name: torch.from_numpy(array) for name, array in stored(f"scan_{number}").items()}
    batch, channels, length = expected["out"].shape
    u, dt = (normal(f"ss{number}.{name}", batch, channels, length).double().requires_grad_() for name in ("u", "dt"))
    B = normal(f"ss{number}.B", batch, 1, length).double().requires_grad_()
    A_logs = reference_tensor(f"ss{number}.A_logs", [channels, 1]).double().requires_grad_()
    bias = reference_tensor(f"ss{number}.dt_projs_bias", [channels]).double().requires_grad_()
    states = selective_scan_state(u, dt, -A_logs.exp()[:, 0], B, bias, backend="reference")
    (states * normal(f"ss{number}.g", batch, channels, length)).sum().backward()
    gradients = {"grad_u": u, "grad_dt": dt, "grad_B": B, "grad_A_logs": A_logs, "grad_bias": bias}
    assert relative_error(states.detach(), expected["out"]) < 1e-5
    for name, leaf in gradients.items():
        assert leaf.grad is not None
        assert relative_error(leaf.grad, expected[name]) < 1e-5, name


@ids
def test_torch_agrees_with_reference(case: Case) -> None:
    expected = outputs_and_gradients(case, "reference")
    for name, tensor in outputs_and_gradients(case, "torch").items():
        assert tensor.shape == expected[name].shape, name
        assert relative_error(tensor, expected[name]) < 1e-10, name


@ids
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_torch_in_lower_precision(case: Case, dtype: torch.dtype, tolerance: float) -> None:
    """Inputs are rounded to the dtype; the recurrence itself is float32, so errors do not grow with length."""
    u, delta, A, B, bias = case.inputs(dtype)
    states = selective_scan_state(u, delta, A, B, bias, delta_softplus=case.softplus, backend="torch")
    expected = selective_scan_state(
        u.double(),
        delta.double(),
        A.double(),
        B.double(),
        None if bias is None else bias.double(),
        delta_softplus=case.softplus,
        backend="reference",
    )
    assert states.dtype == torch.float32
    assert relative_error(states, expected) < 1e-5
    for name, tensor in outputs_and_gradients(case, "torch", dtype).items():
        assert relative_error(tensor, outputs_and_gradients(case, "reference")[name]) < tolerance, name


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gradcheck(backend: str) -> None:
    leaves = [t.requires_grad_() for t in Case(2, 4, 13, groups=2).inputs(torch.float64) if t is not None]

    def scan(*tensors: Tensor) -> Tensor:
        return selective_scan_state(*tensors, backend=backend)

    assert torch.autograd.gradcheck(scan, leaves)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
@pytest.mark.parametrize("case", [CASES[1], CASES[3], CASES[6]], ids=str)
def test_registration(case: Case) -> None:
    arguments = (*(t if t is None else t.requires_grad_() for t in case.inputs()), case.softplus)
    torch.library.opcheck(torch.ops.a2mamba.selective_scan_state.default, arguments)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 8, 9, 16, 49, 97, 784, 1009])
def test_linear_recurrence(length: int, reverse: bool) -> None:
    generator = torch.Generator().manual_seed(length)
    decay, x = torch.rand(2, 2, length, 3, generator=generator, dtype=torch.float64)
    expected, h = torch.empty_like(x), torch.zeros(2, 3, dtype=torch.float64)
    for t in reversed(range(length)) if reverse else range(length):
        h = decay[:, t] * h + x[:, t]
        expected[:, t] = h
    torch.testing.assert_close(linear_recurrence(decay.clone(), x.clone(), reverse), expected)


def test_longest_sequence_is_exact() -> None:
    """65,536 tokens with decays near one and near zero: float32 within rounding of float64, and finite."""
    tensors = [t for t in Case(1, 4, 65536).inputs() if t is not None]
    states = selective_scan_state(*tensors)
    exact = selective_scan_state(*(t.double() for t in tensors))
    assert relative_error(states, exact) < 1e-5
    tensors[2] = torch.tensor([-1e-6, -1e4, -1.0, -0.01])
    extreme = selective_scan_state(*tensors)
    assert extreme.isfinite().all()


def test_steps_above_twenty_are_linear() -> None:
    u = torch.ones(1, 1, 1, dtype=torch.float64)
    states = selective_scan_state(u, 25 * u, -torch.ones(1), u[:, 0], backend="torch")
    assert states.item() == 25.0


def test_inputs_are_not_changed() -> None:
    for case in (Case(1, 4, 400, bias=False, softplus=False), Case(2, 6, 211)):
        tensors = [t for t in case.inputs() if t is not None]
        before = [t.clone() for t in tensors]
        u, delta, A, B, *bias = tensors
        selective_scan_state(u, delta, A, B, *bias, delta_softplus=case.softplus)
        assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


U, A = torch.zeros(2, 6, 5), torch.zeros(6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((U, U[..., :4], A, U[:, 0]), "one shape"),
        ((U[..., :0], U[..., :0], A, U[:, 0, :0]), "at least one token"),
        ((U, U, A[:3], U[:, 0]), r"A must have shape \(6,\)"),
        ((U, U, A, U[:, :4]), "N dividing 6"),
        ((U, U, A, U[:, 0], A[:1]), r"delta_bias must have shape \(6,\)"),
        ((U.long(), U.long(), A, U[:, 0]), "floating point"),
    ],
)
def test_bad_input_is_named(arguments: tuple[Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        selective_scan_state(*arguments)


def test_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"choose one of .*'torch', 'reference'"):
        selective_scan_state(U, U, A, U[:, 0], backend="fast")


@pytest.mark.parametrize("backend", [None, "reference"])
def test_states_may_be_wanted_in_another_dtype(backend: str | None) -> None:
    u, delta, A, B, delta_bias = CASES[1].inputs(torch.float32)
    exact = selective_scan_state(u, delta, A, B, delta_bias, backend=backend)
    found = selective_scan_state(u, delta, A, B, delta_bias, dtype=torch.float16, backend=backend)
    assert exact.dtype == torch.float32
    assert torch.equal(found, exact.half())
