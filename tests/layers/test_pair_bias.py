"""Resizing the bias of pairs of positions: equal to the interpolation that it stands for."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from a2mamba.layers import resize_pair_bias


@pytest.mark.parametrize(("size", "tokens"), [(49, 144), (49, 1024), (49, 12), (9, 1), (1, 5), (16, 17)])
def test_equals_interpolation(size: int, tokens: int) -> None:
    bias = torch.randn(3, size, size, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, tokens, tokens, dtype=torch.float64)
    found = resize_pair_bias(bias, tokens)
    expected = F.interpolate(bias[None], size=(tokens, tokens), mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((out * weights).sum(), bias)[0] for out in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_same_size_is_untouched() -> None:
    bias = torch.randn(2, 49, 49)
    assert resize_pair_bias(bias, 49) is bias


def test_half_precision_and_autocast() -> None:
    bias = torch.randn(2, 49, 49)
    expected = resize_pair_bias(bias, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resize_pair_bias(bias, 100), expected)
    rounded = resize_pair_bias(bias.bfloat16(), 100)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_registration() -> None:
    bias = torch.randn(2, 9, 9, requires_grad=True)
    torch.library.opcheck(torch.ops.a2mamba.resize_pair_bias.default, (bias, 16))
