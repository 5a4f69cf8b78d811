"""The whole network on the Triton backends: what the operators' dispatch makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import a2mamba
from a2mamba.ops import neighborhood, selective_scan
from a2mamba.ops.dispatch import HAS_NUMBA
from a2mamba.ops.neighborhood import operator as neighborhood_operator
from a2mamba.ops.selective_scan import operator as scan_operator
from support import relative_error


def loss_and_gradients() -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = a2mamba.create_model("a2mamba_test", num_classes=5, img_size=32).eval()
    loss = model(torch.randn(1, 3, 32, 40)).square().sum()
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def with_triton(folder: str) -> tuple[torch.Tensor, list[torch.Tensor], list[str], dict[str, int]]:
    """Run the network with Triton believed to be at home on the CPU; return also what was chosen and launched."""
    from a2mamba.ops.neighborhood import triton_impl

    launched = {"run_with_memory": 0, "apply_again": 0}

    def counted(name: str) -> Callable[..., Any]:
        inner = getattr(triton_impl, name)

        def call(*arguments: Any) -> Any:
            launched[name] += 1
            return inner(*arguments)

        return call

    with (
        mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}),
        mock.patch.object(neighborhood_operator, "triton_missing", return_value=None),
        mock.patch.object(scan_operator, "triton_missing", return_value=None),
        mock.patch.object(triton_impl, "run_with_memory", counted("run_with_memory")),
        mock.patch.object(triton_impl, "apply_again", counted("apply_again")),
    ):
        q, k, v, bias = neighborhood.CASES[1].inputs()
        verdicts = neighborhood.explain_backends(q, k, v, bias) + selective_scan.explain_backends(q[0, 0])
        chosen = [verdict.backend for verdict in verdicts if verdict.reason is None]
        loss, gradients = loss_and_gradients()
    return loss, gradients, chosen, launched


def test_network_on_triton(tmp_path: Path, interpreted: Callable[..., Any]) -> None:
    loss, gradients, chosen, launched = interpreted(with_triton, str(tmp_path))
    assert chosen == ["triton", *["numba"] * HAS_NUMBA, "torch", "reference"] * 2
    # Two maps a block; the four blocks with a scan apply each of theirs twice.
    assert launched == {"run_with_memory": 10, "apply_again": 8}
    expected_loss, expected = loss_and_gradients()
    assert relative_error(loss, expected_loss) < 1e-5
    # Keys of a map of one position have no influence: their gradients are rounding, far below all others.
    noise = 1e-6 * max(float(right.abs().max()) for right in expected)
    for found, right in zip(gradients, expected, strict=True):
        assert (found - right).abs().max() <= 1e-3 * right.abs().max() + noise


def test_without_a_gpu_triton_says_so() -> None:
    q, k, v, bias = neighborhood.CASES[1].inputs()
    for verdicts in (neighborhood.explain_backends(q, k, v, bias), selective_scan.explain_backends(q[0, 0])):
        assert [verdict.backend for verdict in verdicts] == ["triton", "numba", "torch", "reference"]
        assert verdicts[0].reason == "its kernels need a GPU, and the tensors are on cpu"
        assert verdicts[2].reason is None


OPERATORS = ("channel_norm", "depthwise", "feed_forward", "neighborhood", "readout", "rotary", "selective_scan")
LAYERS = ("channel_norm", "pointwise")


def inference_with_triton(name: str, folder: str, autocast: bool) -> tuple[float, float, set[str]]:
    """Return the errors of the plain backends and of all that layers do on GPUs, and the operators that ran there."""
    torch.manual_seed(0)
    model = a2mamba.create_model(name, num_classes=5, img_size=32).eval()
    images = torch.randn(1, 3, 32, 40)
    ran: set[str] = set()

    def counted(operator: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            ran.add(operator)
            return run(*arguments, **options)

        return call

    with ExitStack() as stack, torch.inference_mode():
        stack.enter_context(mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}))
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            plain = model(images)
        for operator in OPERATORS:
            module = import_module(f"a2mamba.ops.{operator}.operator")
            stack.enter_context(mock.patch.object(module, "triton_missing", return_value=None))
            if operator == "feed_forward":  # runs what depthwise does
                continue
            implementation = import_module(f"a2mamba.ops.{operator}.triton_impl")
            for entry in ("run", "rotate", "run_with_memory", "read_out", "gated_norm"):
                if hasattr(implementation, entry):
                    inner = getattr(implementation, entry)
                    stack.enter_context(mock.patch.object(implementation, entry, counted(f"{operator} {entry}", inner)))
        for layer in LAYERS:
            module = import_module(f"a2mamba.layers.{layer}")
            stack.enter_context(mock.patch.object(module, "on_gpu", return_value=True))
        # Numba's kernels would run on these tensors, of operators that Triton has no kernel for.
        stack.enter_context(mock.patch("a2mamba.ops.dispatch.HAS_NUMBA", False))
        # The verdicts of the self-tests come first, and their calls do not count.
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            model(images)
            ran.clear()
            found = model(images)
    return relative_error(plain, expected), relative_error(found, expected), ran


@pytest.mark.parametrize(
    ("name", "autocast"),
    [
        ("a2mamba_test", False),
        pytest.param("a2mamba_test", True, marks=pytest.mark.slow),
        pytest.param("segman_encoder_tiny", False, marks=pytest.mark.slow),
        pytest.param("segman_encoder_tiny", True, marks=pytest.mark.slow),
    ],
)
def test_inference_as_on_a_gpu(name: str, autocast: bool, tmp_path: Path, interpreted: Callable[..., Any]) -> None:
    plain, found, ran = interpreted(inference_with_triton, name, str(tmp_path), autocast)
    of_mass = {"readout read_out", "readout gated_norm", "neighborhood run_with_memory"} if "a2mamba" in name else set()
    assert ran >= {"channel_norm run", "depthwise run", "rotary rotate", "selective_scan run"} | of_mass
    # Triton's interpreter cuts numbers off where it makes bfloat16 of them: twice the error, and all to one side.
    assert found < 6 * plain + 1e-5
