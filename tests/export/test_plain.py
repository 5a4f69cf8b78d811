"""Our operators as PyTorch's own operations, against the specification; and the formats that are written of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import a2mamba
from a2mamba.export import export_model, plain
from a2mamba.export.aot import AotFormat
from a2mamba.export.program import trace
from a2mamba.layers.global_attention import resize_pair_bias
from a2mamba.ops.neighborhood.reference import neighborhood_attention as specified_attention
from a2mamba.ops.selective_scan.reference import selective_scan_state as specified_scan

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


@pytest.mark.parametrize(("length", "groups"), [(1, 1), (plain.SEQUENTIAL, 1), (97, 1), (784, 4)])
def test_selective_scan(length: int, groups: int) -> None:
    torch.manual_seed(0)
    u, delta, B = torch.randn(3, 8, length), torch.randn(3, 8, length), torch.randn(3, groups, length)
    delta[:, :, length // 2] = 30.0  # a step after which nothing of the past is left
    A, bias = -torch.linspace(0.1, 30, 8), torch.linspace(-3, 2, 8)
    found = plain.selective_scan_state(u, delta, A, B, bias, True)
    expected = specified_scan(u.double(), delta.double(), A.double(), B.double(), bias.double(), True)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize(("kernel_size", "dilation"), [((5, 5), (2, 3)), ((7, 3), (1, 1))])
@pytest.mark.parametrize("biased", [True, False])
def test_neighborhood_attention(kernel_size: tuple[int, int], dilation: tuple[int, int], biased: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 2, 20, 23, 8).unbind()
    bias = torch.randn(2, 2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1) if biased else None
    found = plain.neighborhood_attention(q, k, v, bias, kernel_size, dilation, 0.3)
    double = None if bias is None else bias.double()
    expected = specified_attention(q.double(), k.double(), v.double(), double, kernel_size, dilation, 0.3)
    assert (found - expected).abs().max() < 1e-5


class _Resize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(4, 9, 9))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return resize_pair_bias(self.bias, 4), resize_pair_bias(self.bias[1:3], 24) + x


def test_resized_pair_bias() -> None:
    torch.manual_seed(0)
    network, x = _Resize(), torch.ones(2)
    program = plain.plain(trace(network, x[:1]))
    assert not any("a2mamba" in str(node.target) for node in program.graph.nodes)
    for found, expected in zip(program.module()(x[:1]), network(x[:1]), strict=True):
        assert (found - expected).abs().max() < 1e-5


def classifier() -> nn.Module:
    torch.manual_seed(0)
    model = a2mamba.create_model("a2mamba_test", num_classes=5).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.uniform_(0.5, 1)
    return model


@pytest.mark.slow
def test_a_program_without_operators_of_ours() -> None:
    model, images = classifier(), torch.randn(3, 3, 64, 64)
    program = plain.plain(trace(model, images[:2]))
    assert not any("a2mamba" in str(node.target) for node in program.graph.nodes)
    with torch.inference_mode():
        expected = model(images)
        assert (program.module()(images) - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_a_compiled_package(tmp_path: Path) -> None:
    exported = export_model(classifier(), tmp_path / "x.pt2", size=(32, 32), mean=MEAN, std=STD, format="aot")
    assert exported.description["format"] == "aot"
    assert exported.comparison.difference <= 1e-4


def test_a_missing_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ImportError, match=r"install a C\+\+ compiler"):
        AotFormat().check_installed()


@pytest.mark.slow
@pytest.mark.filterwarnings(  # coremltools of itself
    "ignore::DeprecationWarning",
    "ignore::FutureWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
def test_core_ml_is_converted(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    exported = export_model(classifier(), tmp_path / "x.mlpackage", size=(64, 64), mean=MEAN, std=STD)
    assert (tmp_path / "x.mlpackage" / "Manifest.json").is_file()
    assert exported.description["input"]["shape"] == [1, 3, 64, 64]
    assert exported.description["bytes"] > 1e5
