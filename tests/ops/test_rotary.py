"""The rotation of channel pairs: its backends against the reference, and what they say they cannot run."""

from __future__ import annotations

import pytest
import torch

from a2mamba.export.comparison import torch_threads
from a2mamba.ops import dispatch, rotary, rotate
from support import needs_numba, relative_error

every_case = pytest.mark.parametrize("case", rotary.CASES, ids=str)


@every_case
def test_the_reference_rotates_pairs(case: rotary.Case) -> None:
    x, table = case.inputs(torch.float64)
    found = rotate(x, table, backend="reference")
    angle = torch.atan2(table[..., 1], table[..., 0])[:, :, None, None]
    expected = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.exp(1j * angle)
    assert torch.allclose(found, torch.view_as_real(expected).flatten(-2))


@every_case
def test_torch_agrees_with_its_gradient(case: rotary.Case) -> None:
    x, table = case.inputs(torch.float64)
    results = []
    for backend in ("torch", "reference"):
        leaf = x.clone().requires_grad_()
        found = rotate(leaf, table, backend=backend)
        results.append((found.detach(), *torch.autograd.grad(found.pow(3).sum(), leaf)))
    for ours, right in zip(*results, strict=True):
        assert torch.allclose(ours, right)


@needs_numba
@every_case
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3)])
def test_numba_agrees_with_its_gradient(case: rotary.Case, dtype: torch.dtype, tolerance: float) -> None:
    x, table = case.inputs(dtype)
    weights = case.inputs(dtype, seed=1)[0]
    leaf = x.double().requires_grad_()
    expected = rotate(leaf, table.double(), backend="reference")
    expected_results = (expected.detach(), *torch.autograd.grad(expected, leaf, weights.double()))
    for count in (1, 3):
        with torch_threads(count):
            leaf = x.detach().requires_grad_()
            found = rotate(leaf, table, backend="numba")
            for ours, right in zip((found, *torch.autograd.grad(found, leaf, weights)), expected_results, strict=True):
                assert ours.dtype == dtype
                assert ours.shape == x.shape
                assert relative_error(ours.detach(), right) < tolerance
    apart = x.transpose(1, -1).contiguous().transpose(1, -1)
    assert torch.equal(rotate(apart, table, backend="numba"), found)


@torch.no_grad()
def test_what_cannot_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "HAS_NUMBA", True)
    x, table = rotary.CASES[1].inputs()
    for arguments, message in (
        ((x.double(), table), "it is for float32 and bfloat16, got torch.float64"),
        ((x, table.bfloat16()), "the table must be float32 without a gradient, got torch.bfloat16"),
        (rotary.Case(1, 2, 2, 1, 12).inputs(), "a multiple of 8 wide, got 12"),
    ):
        with pytest.raises(ValueError, match=message):
            rotate(*arguments, backend="numba")
    with pytest.raises(ValueError, match=r"got \(2, 5, 9, 2, 2, 24\) and \(5, 8, 12, 2\)"):
        rotate(x, table[:, 1:])
