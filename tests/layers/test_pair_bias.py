"""Resizing the bias of pairs of positions: equal to the interpolation that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from a2mamba.layers import GlobalAttention, global_attention, resize_pair_bias


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


@pytest.mark.parametrize(("limit", "sizes"), [(0, [1] * 5), (2 * 20**2, [1, 2, 2]), (10**6, [5])])
def test_some_heads_at_a_time(limit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """At inference no more of the resized bias is there than a limit says; with gradients it is one."""
    module = GlobalAttention(5, 9)
    torch.nn.init.normal_(module.bias)
    q, k, v = (torch.randn(2, 4, 5, 5, 8).permute(0, 3, 1, 2, 4) for _ in range(3))
    seen: list[int] = []

    def watched(bias: Tensor, tokens: int) -> Tensor:
        seen.append(len(bias))
        return resize_pair_bias(bias, tokens)

    monkeypatch.setattr(global_attention, "resize_pair_bias", watched)
    monkeypatch.setattr(global_attention, "MAX_CHUNK_ELEMENTS", limit)
    expected = module(q, k, v)
    assert seen == [5]
    seen.clear()
    with torch.no_grad():
        found = module(q, k, v)
    assert seen == sizes
    assert found.stride() == expected.stride()
    torch.testing.assert_close(found, expected.detach())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_registration() -> None:
    bias = torch.randn(2, 9, 9, requires_grad=True)
    torch.library.opcheck(torch.ops.a2mamba.resize_pair_bias.default, (bias, 16))


@pytest.mark.parametrize("width", [8, 28])
def test_heads_are_padded_on_gpus(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = GlobalAttention(2, 12)
    torch.nn.init.normal_(attention.bias)
    q, k, v = torch.randn(3, 2, 3, 4, 2, width).permute(0, 1, 4, 2, 3, 5)
    expected = attention(q, k, v)
    widths = []

    def attend(q: Tensor, *others: Tensor, fused: Any = F.scaled_dot_product_attention, **options: Any) -> Tensor:
        widths.append(q.shape[-1])
        return fused(q, *others, **options)

    monkeypatch.setattr(global_attention, "on_gpu", lambda x: True)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    found = attention(q, k, v)
    assert widths == [-(-width // 8) * 8]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected)
