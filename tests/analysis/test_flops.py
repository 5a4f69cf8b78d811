"""Counts by hand for plain layers and our operators; recounts of the published figures for every variant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

import a2mamba
from a2mamba.analysis import feature_maps, flops, parameters
from a2mamba.catalog import FACTS
from a2mamba.ops import NeighborhoodMap, neighborhood_attention, selective_scan_state

# The published totals in units of a thousand million, to be met within half a percent (docs/network.md, section 12).
STATED = {
    "a2mamba_nano": 0.825,
    "a2mamba_tiny": 2.712,
    "a2mamba_small": 5.389,
    "a2mamba_base": 11.458,
    "a2mamba_large": 17.436,
    "a2mamba_large_paper": 18.278,
}


class Apply(nn.Module):
    """A function of images as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        pytest.param(nn.Conv2d(3, 8, 3, 2, padding=1), (3, 16, 20), 8 * 8 * 10 * 3 * 9, id="convolution"),
        pytest.param(nn.Conv2d(8, 8, 5, padding=2, groups=8), (8, 6, 7), 8 * 6 * 7 * 25, id="depthwise"),
        pytest.param(nn.Conv2d(8, 12, 1, bias=False), (8, 6, 7), 8 * 12 * 6 * 7, id="pointwise"),
        pytest.param(nn.Linear(7, 5), (3, 4, 7), 3 * 4 * 7 * 5, id="linear"),
        pytest.param(nn.Linear(7, 5, bias=False), (3, 4, 7), 3 * 4 * 7 * 5, id="linear without bias"),
        pytest.param(nn.BatchNorm2d(8), (8, 6, 7), 2 * 8 * 6 * 7, id="batch norm"),
        pytest.param(nn.LayerNorm(7), (8, 6, 7), 5 * 8 * 6 * 7, id="layer norm"),
        pytest.param(LayerNorm2d(8), (8, 6, 7), 5 * 8 * 6 * 7, id="layer norm of channels"),
        pytest.param(nn.Sequential(nn.GELU(), nn.SiLU(), nn.Softmax(1), nn.MaxPool2d(2)), (8, 6, 6), 0, id="free"),
        pytest.param(Apply(lambda x: x @ x.transpose(-1, -2)), (3, 4, 7), 3 * 4 * 4 * 7, id="matrix product"),
        pytest.param(
            Apply(lambda x: F.scaled_dot_product_attention(x, x, x)), (3, 10, 8), 3 * 10 * 10 * (8 + 8), id="attention"
        ),
    ],
)
def test_counts_by_hand(model: nn.Module, size: tuple[int, ...], expected: int) -> None:
    assert flops(model, size) == expected
    assert flops(model, (1, *size)) == expected
    assert flops(model, (3, *size)) == 3 * expected


@pytest.mark.parametrize("biased", [False, True])
def test_neighborhood_attention_by_hand(biased: bool) -> None:
    """Heads 2 of width 8, values 4 wide: K * K keys a query, fewer where the map is narrower than the window."""

    def attend(dilation: int) -> nn.Module:
        def function(x: Tensor) -> Tensor:
            heads = x.permute(0, 2, 3, 1).unflatten(-1, (2, 8)).permute(0, 3, 1, 2, 4)
            bias = x.new_empty(2, 9, 9) if biased else None
            return neighborhood_attention(heads, heads, heads[..., :4], bias, kernel_size=5, dilation=dilation)

        return Apply(function)

    each = 8 + 4 + biased
    assert flops(attend(1), (16, 12, 9)) == 2 * 12 * 9 * 25 * each
    assert flops(attend(2), (16, 12, 11)) == 2 * 12 * 11 * 25 * each
    assert flops(attend(1), (16, 12, 3)) == 2 * 12 * 3 * (5 * 3) * each
    assert flops(attend(1), (16, 1, 1)) == 2 * each


def test_a_map_that_is_applied_again_computes_no_scores() -> None:
    def function(x: Tensor) -> Tensor:
        heads = x.permute(0, 2, 3, 1).unflatten(-1, (2, 8)).permute(0, 3, 1, 2, 4)
        attention = NeighborhoodMap(heads, heads, kernel_size=3)
        return attention(attention(heads))

    assert flops(Apply(function), (16, 6, 7)) == 2 * 6 * 7 * 9 * (8 + 8 + 8)


def test_the_scan_by_hand() -> None:
    def function(x: Tensor) -> Tensor:
        u = x.flatten(2)
        return selective_scan_state(u, u, u[0, :, 0], u[:, 0])

    assert flops(Apply(function), (6, 4, 5)) == 7 * 6 * 20


def test_counting_changes_nothing() -> None:
    model = a2mamba.create_model("a2mamba_test").train()
    model.stem.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    assert flops(model, (3, 64, 64)) > 0
    feature_maps(model, (3, 64, 64))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_neither_device_nor_dtype_changes_the_count() -> None:
    expected = FACTS["a2mamba_test"].flops
    assert flops(a2mamba.create_model("a2mamba_test", dtype=torch.bfloat16)) == expected
    assert flops(a2mamba.create_model("a2mamba_test", device="meta", dtype=torch.float64)) == expected


def test_every_variant_has_facts() -> None:
    assert list(FACTS) == a2mamba.list_models()
    assert len(FACTS) == 11


@pytest.mark.parametrize("name", FACTS)
def test_recount(name: str) -> None:
    model = a2mamba.create_model(name, device="meta")
    facts = FACTS[name]
    assert sum(p.numel() for p in set(model.parameters())) == parameters(model) == facts.parameters
    assert flops(model, (3, 224, 224)) == facts.flops
    if name in STATED:
        assert facts.flops / 1e9 == pytest.approx(STATED[name], rel=0.005)


@pytest.mark.parametrize("size", [(224, 224), (97, 131), (1, 33)])
def test_feature_maps_are_those_of_a_real_run(size: tuple[int, int]) -> None:
    model = a2mamba.create_model("a2mamba_test").eval()
    with torch.no_grad():
        maps = model.forward_intermediates(torch.zeros(1, 3, *size), intermediates_only=True)
    found = feature_maps(model, (3, *size))
    assert [(m["channels"], m["height"], m["width"]) for m in found] == [tuple(x.shape[1:]) for x in maps]
    assert [m["stride"] for m in found] == [4, 8, 16, 32]
    assert [m["module"] for m in found] == [f"stages.{i}" for i in range(4)]


@pytest.mark.parametrize("size", [(224,), (224, 224), (1, 1, 3, 224, 224)])
def test_a_size_of_other_axes_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="input_size must be"):
        flops(nn.Identity(), size)


def test_parameters_count_shared_ones_once() -> None:
    first = nn.Linear(3, 4)
    second = nn.Linear(3, 4)
    second.weight = first.weight
    assert parameters(nn.ModuleList([first, second])) == 12 + 4 + 4
