"""The positional convolution with the sum before it and the norm behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from a2mamba.export.comparison import torch_threads
from a2mamba.ops import positional, positional_norm
from a2mamba.ops.positional import numba_impl
from support import needs_numba, relative_error

every_case = pytest.mark.parametrize("case", positional.CASES, ids=str)
CASE = positional.CASES[1]


def close(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(not right.numel() or relative_error(ours, right) < tolerance for ours, right in pairs)


@needs_numba
@every_case
@torch.no_grad()
def test_backends_agree_with_reference(case: positional.Case) -> None:
    expected = positional_norm(*case.inputs(torch.float64), backend="reference")
    assert close(positional_norm(*case.inputs(torch.float64), backend="torch"), expected, 1e-12)
    found = positional_norm(*case.inputs(), backend="numba")
    assert {each.dtype for each in found} == {torch.float32}
    assert close(found, expected, 2e-6)


@needs_numba
@every_case
@torch.no_grad()
def test_bfloat16(case: positional.Case) -> None:
    """Of everything; then, as under autocast, of the branch and of the norm alone."""
    x, branch, skip, pos, norm = case.inputs(torch.bfloat16)
    found = positional_norm(x, branch, skip, pos, norm, backend="numba")
    exact = None if branch is None else branch.double()
    expected = positional_norm(x.double(), exact, skip.double(), pos.double(), norm.double(), backend="reference")
    assert {each.dtype for each in found} == {torch.bfloat16}
    assert close(found, expected, 4e-3)
    x, branch, skip, pos, norm = case.inputs(torch.float32)
    branch = None if branch is None else branch.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = positional_norm(x, branch, skip, pos, norm, backend="numba")
    exact = None if branch is None else branch.float()
    expected = positional_norm(x, exact, skip, pos, norm, backend="reference")
    assert [each.dtype for each in found] == [torch.float32, torch.bfloat16]
    assert not x.numel() or relative_error(found[0], expected[0]) < 2e-6
    assert close(found, expected, 4e-3)


@needs_numba
@torch.no_grad()
def test_threads_and_the_order_of_memory_do_not_change_a_bit() -> None:
    expected = positional_norm(*CASE.inputs(), backend="numba")
    x, branch, skip, pos, norm = CASE.inputs()
    assert branch is not None
    found = positional_norm(x.contiguous(), branch.transpose(2, 3).contiguous().transpose(2, 3), skip, pos, norm)
    assert all(map(torch.equal, found, expected))
    for count in (1, 3):
        with torch_threads(count):
            assert all(map(torch.equal, positional_norm(*CASE.inputs(), backend="numba"), expected))


@needs_numba
@torch.no_grad()
def test_every_output_is_written_and_no_stale_memory_read(poison: Callable[[], None]) -> None:
    expected = positional_norm(*CASE.inputs(), backend="numba")
    poison()
    assert all(map(torch.equal, positional_norm(*CASE.inputs(), backend="numba"), expected))


@needs_numba
@torch.no_grad()
def test_what_the_kernel_cannot_run_is_named() -> None:
    x, branch, skip, pos, norm = CASE.inputs()

    def objection(*arguments: Any) -> str:
        return str(positional.explain_backends(*arguments)[0].reason)

    assert branch is not None
    assert objection(x, branch, skip, pos, norm) == "None"
    assert "LayerNorm with weight and bias, got BatchNorm2d" in objection(x, branch, skip, pos, nn.BatchNorm2d(16))
    assert "must be (16, 1, 3, 3) with bias, got (16, 1, 5, 5)" in objection(
        x, branch, skip, nn.Conv2d(16, 16, 5, groups=16), norm
    )
    assert "must be float32 or bfloat16" in objection(x, branch.double(), skip, pos, norm)
    with torch.autocast("cpu", torch.float16):
        assert "must be bfloat16, got torch.float16" in objection(x, branch, skip, pos, norm)
    with torch.enable_grad():
        assert "a gradient" in objection(x, branch, skip, pos, norm)
    seen: list[object] = []
    pos.register_forward_hook(lambda *arguments: seen.append(arguments))
    assert objection(x, branch, skip, pos, norm) == "a forward hook waits for the call of a module"
    positional_norm(x, branch, skip, pos, norm)
    assert len(seen) == 1
    with pytest.raises(ValueError, match=r"one shape \(B, C, H, W\), got \(2, 16, 5, 9\) and \(1, 16, 5, 9\)"):
        positional_norm(x, branch[:1], skip, pos, norm)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@needs_numba
@pytest.mark.parametrize("place", [3, 4], ids=["pos", "norm"])
@torch.no_grad()
def test_a_weight_that_a_parametrization_makes_is_read_by_its_module(place: int) -> None:
    inputs = CASE.inputs()
    changed = inputs[place]
    assert isinstance(changed, (nn.Conv2d, nn.LayerNorm))
    with torch.no_grad():
        changed.weight.mul_(2)
        expected = positional_norm(*inputs, backend="reference")
        changed.weight.div_(2)
    register_parametrization(changed, "weight", Doubled())
    assert positional.explain_backends(*inputs)[0].reason is not None
    assert close(positional_norm(*inputs), expected, 1e-6)


@needs_numba
def test_gradients_come_from_the_modules() -> None:
    x, branch, skip, pos, norm = CASE.inputs(torch.float64)
    leaves = [x.requires_grad_(), *(p.requires_grad_() for module in (skip, pos, norm) for p in module.parameters())]
    grads = []
    for backend in (None, "reference"):
        out, normal = positional_norm(x, branch, skip, pos, norm, backend=backend)
        grads.append(torch.autograd.grad(out.square().sum() + normal.cos().sum(), leaves))
    assert all(torch.allclose(ours, right, rtol=1e-9, atol=1e-9) for ours, right in zip(*grads, strict=True))


@needs_numba
def test_a_wrong_kernel_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from a2mamba.ops import self_test

    self_test.forget()
    right = numba_impl.positional_norm

    def wrong(*arguments: Any) -> tuple[Tensor, Tensor]:
        out, normal = right(*arguments)
        return out, 1.01 * normal

    monkeypatch.setattr(numba_impl, "positional_norm", wrong)
    try:
        with pytest.warns(RuntimeWarning, match="positional_norm/numba: the Numba kernels are switched off"):
            reason = self_test.passed("positional_norm/numba", torch.device("cpu"))
        assert reason == "their norm differs from the reference by 1.0e-02 of its norm (inputs torch.float32)"
    finally:
        self_test.forget()
