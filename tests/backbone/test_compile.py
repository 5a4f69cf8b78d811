"""torch.compile and torch.export see through the whole network."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.fx.experimental import sym_node

from a2mamba.backbone import pyramid
from a2mamba.layers import ffn
from a2mamba.ops.dispatch import HAS_NUMBA


def example(name: str, side: int, depths: tuple[int, ...] | None = None) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, depths=depths)  # None: those of the variant
    return model.eval(), torch.randn(2, 3, side, side)


ONE_EACH = (1, 1, 1, 1)
"""Every kind of part, in a quarter of the time."""


@pytest.mark.parametrize("depths", [ONE_EACH, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["a2mamba_nano", "segman_encoder_tiny"])
def test_fullgraph_without_a_code_generator(name: str, depths: tuple[int, ...] | None) -> None:
    """The graph is complete and right, forward and backward; no compiler is needed for that."""
    model, images = example(name, 64, depths)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    expected, found = model(images), compiled(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(found.square().mean(), parameters),
        torch.autograd.grad(expected.square().mean(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow  # minutes of C++; the default suite stops before code is generated
@pytest.mark.parametrize(("name", "side"), [("a2mamba_test", 96), ("a2mamba_nano", 224)])
def test_inductor(name: str, side: int) -> None:
    model, images = example(name, side)
    with torch.inference_mode():
        expected = model(images[:1])
        found = torch.compile(model, fullgraph=True)(images[:1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_dynamic_sizes_compile_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = example("a2mamba_test", 64, ONE_EACH)
    # Eager inference computes the larger of the sizes in chunks; a compiled graph must not ask which they are.
    monkeypatch.setattr(pyramid, "MAX_CHUNK_ELEMENTS", 40_000)
    monkeypatch.setattr(ffn, "MAX_CHUNK_ELEMENTS", 40_000)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    with torch.inference_mode():
        for height, width in ((96, 128), (160, 64), (224, 192)):
            images = torch.randn(2, 3, height, width)
            torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)
            counts.append(counter.frame_count)
    # Once more at most, when the first eager call has brought the self-tests' verdicts. (A trace may start anew.)
    assert counts[0] <= 2
    assert counts[1] <= counts[0] + 1
    # Older versions of torch make a graph for each outcome of a minimum of sizes, the dilation's.
    assert counts[2] <= counts[1] + hasattr(sym_node, "alternate_impl_if_hinted_methods")


def test_export() -> None:
    model, images = example("a2mamba_nano", 224, ONE_EACH)
    exported = torch.export.export(model, (images[:1],))
    with torch.inference_mode():
        torch.testing.assert_close(exported.module()(images[:1]), model(images[:1]), rtol=1e-4, atol=1e-4)
    targets = {str(node.target) for node in exported.graph.nodes}
    backend = "_numba" if HAS_NUMBA else ""
    assert f"a2mamba.neighborhood_attention{backend}.default" in targets
    assert f"a2mamba.selective_scan_state{backend}.default" in targets
