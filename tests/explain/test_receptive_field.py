"""Effective receptive fields, where they are known without a network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from a2mamba.explain import effective_receptive_field, last_map, side_holding
from support import normal

from .networks import classifier, detector, segmenter


def _ones(kernel_size: int, *, padding: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(1, 1, kernel_size, stride, padding, dilation, bias=False)
    nn.init.ones_(conv.weight)
    return conv


def test_a_stack_of_known_convolutions_has_its_analytic_support() -> None:
    """Kernels 3, then 5 of stride 2, then 3 at dilation 2: 1 + 2 + 4 + 2 * 2 * 2 = 15 pixels an axis."""
    stack = nn.Sequential(_ones(3, padding=1), _ones(5, padding=2, stride=2), _ones(3, padding=2, dilation=2))
    field = effective_receptive_field(stack, [normal("a", 1, 41, 53), normal("b", 1, 41, 53)])
    assert field.shape == (41, 53)
    axis = _convolved([1, 1, 1], _convolved([1, 1, 1, 1, 1], [1, 0, 0, 0, 1, 0, 0, 0, 1]))
    assert len(axis) == 15
    assert (axis > 0).all()
    expected = torch.zeros(41, 53, dtype=torch.float64)
    middle = 2 * (21 // 2), 2 * (27 // 2)
    expected[middle[0] - 7 : middle[0] + 8, middle[1] - 7 : middle[1] + 8] = axis[:, None] * axis
    torch.testing.assert_close(field, expected)


def _convolved(a: Tensor | list[int], b: Tensor | list[int]) -> Tensor:
    """The product of two polynomials."""
    first, second = torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64)
    out = torch.zeros(len(first) + len(second) - 1, dtype=torch.float64)
    for place, value in enumerate(second):
        out[place : place + len(first)] += value * first
    return out


def test_it_is_the_mean_over_images() -> None:
    """The gradient of x ** 3 at the middle is 3 x ** 2: it differs from image to image."""
    a, b = normal("a", 1, 5, 5), normal("b", 1, 5, 5)
    field = effective_receptive_field(lambda x: x**3, [a, b])
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[2, 2] = (3 * a[0, 2, 2] ** 2 + 3 * b[0, 2, 2] ** 2) / 2
    torch.testing.assert_close(field, expected)


def test_the_square_that_holds_a_share() -> None:
    field = torch.zeros(21, 31)
    field[10, 15] = 0.6
    field[8, 15] = 0.3
    field[0, 15] = 0.1
    assert [side_holding(field, share) for share in (0.5, 0.85, 0.99)] == [1, 5, 21]
    assert side_holding(torch.ones(8, 8), 1.0) == 8


@pytest.mark.parametrize("make", [classifier, segmenter, detector])
def test_our_networks(make: Callable[[], nn.Module]) -> None:
    field = effective_receptive_field(last_map(make()), [normal("explained", 3, 64, 64)])
    assert field.shape == (64, 64)
    assert (field > 0).float().mean() > 0.99, "attention and scan reach everything"


@pytest.mark.parametrize(
    ("name", "size"), [("swin_tiny_patch4_window7_224", 224), ("convnext_atto", 64), ("vit_tiny_patch16_224", 224)]
)
def test_networks_of_timm(name: str, size: int) -> None:
    model = timm.create_model(name).eval()
    field = effective_receptive_field(last_map(model), [normal("explained", 3, size, size)])
    assert field.shape == (size, size)
    assert float(field[size // 2, size // 2]) > 0


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="no images"):
        effective_receptive_field(nn.Identity(), [])
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(5, 5\): expected one size"):
        effective_receptive_field(nn.Identity(), [torch.zeros(1, 4, 4), torch.zeros(1, 5, 5)])
    with pytest.raises(ValueError, match="forward_intermediates"):
        last_map(nn.Conv2d(1, 1, 1).eval())
    with pytest.raises(ValueError, match="eval mode"):
        last_map(classifier().train())
