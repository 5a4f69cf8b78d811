"""No forward reads a tensor's values on the host: that would stop a GPU, and break the capture of a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import a2mamba
from a2mamba.ops.neighborhood import torch_impl as attention
from a2mamba.ops.selective_scan import torch_impl as scan

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.nonzero,
    aten.equal,
    aten.unique_dim,
    aten._unique2,
    aten.masked_select,
}
"""Operators whose result, or its size, the host has to wait for."""


class NoReads(TorchDispatchMode):
    """Fails where values are read; it cannot see inside operators of ours."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = [x for x in args[1] if x is not None and x.dtype == torch.bool] if func is aten.index.Tensor else []
        assert func.overloadpacket not in READS, f"{func} reads values"
        assert not masks, f"{func} with a mask reads values"
        return func(*args, **(kwargs or {}))


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        with NoReads():
            return function(*arguments)

    return call


@pytest.fixture
def no_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the methods fail that reach the host without an operator."""
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__"):

        def refuse(x: Tensor, *_: Any, name: str = name) -> Any:
            raise AssertionError(f"Tensor.{name} reads values")

        monkeypatch.setattr(Tensor, name, refuse)


@pytest.mark.parametrize("name", ["a2mamba_test", "a2mamba_nano", "segman_encoder_tiny"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (96, 72)])
def test_forward_reads_no_values(
    name: str,
    training: bool,
    size: tuple[int, int],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = a2mamba.create_model(name).train(training)
    images = torch.randn(2, 3, *size)
    # The first pass makes the tables of these sizes, on the host and for good.
    model(images)
    request.getfixturevalue("no_methods")
    for implementation in (attention, scan):
        monkeypatch.setattr(implementation, "forward", watched(implementation.forward))
    with NoReads():
        model(images)


def test_reads_are_seen() -> None:
    x = torch.ones(3)
    for read in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: bool(x.sum() > 0), lambda: x[x > 0]):
        with pytest.raises(AssertionError, match="reads values"), NoReads():
            read()


def test_methods_are_seen(no_methods: None) -> None:
    for read in (torch.ones(3).tolist, torch.ones(3).numpy, torch.ones(()).item):
        with pytest.raises(AssertionError, match="reads values"):
            read()
