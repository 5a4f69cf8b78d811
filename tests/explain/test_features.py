"""Feature maps as colors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from a2mamba.explain import principal_colors, stage_maps
from support import normal

from .networks import classifier, detector, segmenter


def test_components_are_found_in_the_order_of_their_variance() -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 24), torch.linspace(-1, 1, 32), indexing="ij")
    parts = torch.stack((3 * rows, 2 * columns, (rows * columns)))
    directions = torch.linalg.qr(normal("directions", 7, 3)).Q
    colors = principal_colors(torch.einsum("ck,khw->chw", directions, parts) + 5)
    assert colors.shape == (3, 24, 32)
    assert float(colors.min()) == 0
    assert float(colors.max()) == 1
    for color, part in zip(colors, parts, strict=True):
        both = torch.stack((color.flatten(), part.flatten()))
        assert abs(float(torch.corrcoef(both)[0, 1])) > 0.99


def test_a_map_that_varies_in_fewer_directions_leaves_colors_gray() -> None:
    ramp = torch.linspace(0, 1, 20).expand(4, 5, 20)
    colors = principal_colors(ramp)
    assert (colors[1:] == 0.5).all()
    assert float(colors[0].max()) == 1
    assert (principal_colors(torch.ones(5, 4, 4)) == 0.5).all()


def test_the_sign_does_not_depend_on_the_decomposition() -> None:
    features = normal("features", 6, 9, 11)
    assert torch.equal(principal_colors(features), principal_colors(features.clone()))
    both = torch.stack((principal_colors(features)[0].flatten(), principal_colors(-features)[0].flatten()))
    assert float(torch.corrcoef(both)[0, 1]) < -0.9, "the loading is positive, so a negated map has negated colors"


@pytest.mark.parametrize("make", [classifier, segmenter, detector])
def test_maps_of_all_stages(make: Callable[[], nn.Module]) -> None:
    maps = stage_maps(make(), normal("explained", 3, 64, 96))
    assert [each.shape[1:] for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
