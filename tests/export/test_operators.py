"""The forms of our operators as ONNX graphs, against the specification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from a2mamba.export.attention import cut_axis, cut_map
from a2mamba.export.formats import OnnxFormat
from a2mamba.export.program import trace
from a2mamba.export.scan import SEQUENTIAL, chunk_size
from a2mamba.layers.global_attention import resize_pair_bias
from a2mamba.ops import NeighborhoodMap, selective_scan_state
from a2mamba.ops.neighborhood.reference import axis_neighbors
from a2mamba.ops.neighborhood.reference import neighborhood_attention as specified_attention
from a2mamba.ops.selective_scan.reference import selective_scan_state as specified_scan
from support import need_onnx

need_onnx()


def in_onnx_runtime(network: nn.Module, example: Tensor, batch: Tensor, path: Path) -> tuple[np.ndarray, list[str]]:
    """What the graph of a network returns for another batch, and the operators in it."""
    written = OnnxFormat()
    written.write(trace(network, example), path, ["y"])
    return written.load(path, 1)(batch.numpy())[0], written.describe(path)["operators"]


@pytest.mark.parametrize(
    ("length", "kernel_size", "dilation"), [(13, 3, 1), (13, 3, 4), (9, 5, 2), (3, 7, 1), (1, 3, 1)]
)
@pytest.mark.parametrize("tile", [2, 4, 5, 100])
def test_an_axis_in_tiles_has_the_pairs_of_the_specification(
    length: int, kernel_size: int, dilation: int, tile: int
) -> None:
    positions, offsets = axis_neighbors(length, kernel_size, dilation)
    expected = [dict(zip(a, b, strict=True)) for a, b in zip(positions.tolist(), offsets.tolist(), strict=True)]
    axis = cut_axis(length, kernel_size, dilation, tile)
    tiles, places = axis.places(length)
    for i in range(length):
        t, q = tiles[i], places[i]
        assert axis.queries[t, q] == i
        near = axis.offsets[t, q] < 2 * kernel_size - 1
        found = zip(axis.keys[t][near].tolist(), axis.offsets[t, q][near].tolist(), strict=True)
        assert {key: offset - (kernel_size - 1) for key, offset in found} == expected[i]
        assert near.sum() == len(expected[i]), "no pair twice"


def test_tiles_are_smaller_than_maps() -> None:
    y, x = cut_map(56, 56, (11, 11), (1, 1))
    pairs = y.offsets.size * x.offsets.size
    assert 56 * 56 * 121 < pairs < 56 * 56 * 121 * 4


def test_small_maps_are_one_tile() -> None:
    y, x = cut_map(14, 14, (7, 7), (1, 1))
    assert y.queries.shape == x.queries.shape == (1, 14), "nothing is gathered"


class _Attention(nn.Module):
    """A dilated map that is applied twice."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, w = x.chunk(4, dim=-1)
        attention = NeighborhoodMap(q, k, self.bias, kernel_size=5, dilation=(2, 3), again=True)
        return torch.cat((attention(v), attention(w)), dim=-1)


def test_neighborhood_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    bias, x = torch.randn(2, 9, 9), torch.randn(3, 2, 20, 23, 32)
    found, operators = in_onnx_runtime(_Attention(bias), x[:2], x, tmp_path / "x.onnx")
    q, k, v, w = x.double().chunk(4, dim=-1)
    settings = ((5, 5), (2, 3), 8**-0.5)
    expected = [specified_attention(q, k, each, bias.double(), *settings) for each in (v, w)]
    assert np.abs(found - torch.cat(expected, dim=-1).numpy()).max() < 1e-5
    assert set(operators) <= {"Add", "Concat", "Gather", "MatMul", "Mul", "Reshape", "Softmax", "Split", "Transpose"}


class _Scan(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.sizes = (channels, channels, groups)
        self.bias = nn.Parameter(torch.linspace(-3, 2, channels))
        self.A = nn.Parameter(-torch.linspace(0.1, 30, channels))

    def forward(self, x: Tensor) -> Tensor:
        u, delta, B = x.split(self.sizes, dim=1)
        return selective_scan_state(u, delta, self.A, B, self.bias)


@pytest.mark.parametrize(("length", "groups"), [(SEQUENTIAL, 1), (97, 1), (784, 4)])
def test_selective_scan(length: int, groups: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = _Scan(8, groups), torch.randn(3, 16 + groups, length)
    x[:, 8:16, length // 2] = 30.0  # a step after which nothing of the past is left
    found, operators = in_onnx_runtime(network, x[:2], x, tmp_path / "x.onnx")
    u, delta, B = x.double().split(network.sizes, dim=1)
    with torch.no_grad():
        expected = specified_scan(u, delta, network.A.double(), B, network.bias.double(), True).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert not {"Loop", "Scan", "If"} & set(operators)


def test_small_steps_keep_their_digits(tmp_path: Path) -> None:
    """The state of one step is the step itself, where the input is 1: softplus, far below one and far above."""
    network = _Scan(200, 1)
    with torch.no_grad():
        network.bias.copy_(torch.linspace(-80, 80, 200))
    x = torch.ones(2, 401, 1)
    x[:, 200:400] = 0
    found, _ = in_onnx_runtime(network, x, x, tmp_path / "x.onnx")
    expected = torch.nn.functional.softplus(network.bias.detach().double()).numpy()
    assert (np.abs(found[0, :, 0] - expected) / expected).max() < 2e-6


def test_chunks_divide_usual_lengths_and_keep_steps_few() -> None:
    for length in (196, 784, 3136, 16384):
        assert length % chunk_size(length) == 0
    assert chunk_size(3136) + chunk_size(3136 // chunk_size(3136)) < 56


class _Resize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(2, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        return x + resize_pair_bias(self.bias, 24)


def test_resized_pair_bias(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = _Resize(), torch.zeros(2, 2, 24, 24)
    found, _ = in_onnx_runtime(network, x, x, tmp_path / "x.onnx")
    with torch.no_grad():
        assert np.abs(found - network(x).numpy()).max() < 1e-5
