"""Every layer against the plainest form of what it says it computes, in float64."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import TypeVar
from unittest import mock

import pytest
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers import (
    A2SSM,
    LASS,
    MASS,
    SS2D,
    ChannelAffine,
    ConvFFN,
    GlobalAttention,
    PointwiseConv,
    checkpoint_block,
    pointwise,
    resize_pair_bias,
    rope_frequencies,
    rope_table,
)
from a2mamba.layers.heads import from_heads, rotated_qkv, to_heads
from a2mamba.layers.mass import adaptive_dilation
from a2mamba.layers.ssm import init_input_projection, init_step_projection, step_rank
from a2mamba.ops import neighborhood_attention, rotate
from a2mamba.ops.selective_scan import reference

CPU = torch.device("cpu")
M = TypeVar("M", bound=nn.Module)


pytestmark = pytest.mark.usefixtures("seeded")


def randomize(module: M, scale: float = 0.5) -> M:
    """Give every parameter and running statistic a value of its own, in float64; return the module in eval mode."""
    module.double().eval()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand_like(tensor) + 0.5 if name.endswith("var") else scale * torch.randn_like(tensor)
                )
    return module


def close(actual: Tensor, expected: Tensor) -> None:
    assert actual.shape == expected.shape
    assert torch.allclose(actual.double(), expected.double(), rtol=1e-9, atol=1e-9), (actual - expected).abs().max()


# Rotary position encoding


def test_rope_is_a_multiplication_of_complex_numbers() -> None:
    """Pair j of a head is one complex number; the first half turns by the row, the second by the column."""
    height, width, heads, d = 3, 4, 2, 16
    x = torch.randn(1, height, width, heads, d, dtype=torch.float64)
    found = rotate(x, rope_table(height, width, d, CPU, torch.float64))
    axis = d // 4
    for row in range(height):
        for column in range(width):
            for pair in range(d // 2):
                position = row if pair < axis else column
                frequency = 10000 ** -((pair % axis) / (axis - 1))
                turn = cmath.exp(1j * position * frequency)
                for head in range(heads):
                    a, b = x[0, row, column, head, 2 * pair : 2 * pair + 2].tolist()
                    turned = complex(a, b) * turn
                    actual = found[0, row, column, head, 2 * pair : 2 * pair + 2]
                    # The angles are float32, as in the released models.
                    assert actual.tolist() == pytest.approx([turned.real, turned.imag], abs=2e-6)


def test_rope_products_depend_on_the_offset_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 1, 8, dtype=torch.float64)
    table = rope_table(9, 9, 8, CPU, torch.float64)
    turned_q = rotate(q.expand(1, 9, 9, 1, 8), table)
    turned_k = rotate(k.expand(1, 9, 9, 1, 8), table)
    product = [(turned_q[0, r, c] * turned_k[0, r + 2, c + 1]).sum().item() for r, c in ((0, 0), (3, 5), (6, 7))]
    assert product == pytest.approx([product[0]] * 3, abs=1e-5)
    assert product[0] != pytest.approx((turned_q[0, 0, 0] * turned_k[0, 1, 2]).sum().item(), abs=1e-3)


def test_rope_frequencies() -> None:
    assert rope_frequencies(16).tolist() == pytest.approx([1, 10 ** (-4 / 3), 10 ** (-8 / 3), 1e-4])
    assert rope_table(2, 3, 16, CPU, torch.bfloat16).shape == (2, 3, 8, 2)
    assert rope_table(2, 3, 16, CPU, torch.bfloat16).dtype == torch.bfloat16


# Heads


def test_heads_are_consecutive_channels() -> None:
    x = torch.randn(2, 12, 3, 5)
    heads = to_heads(x, 4)
    assert heads.shape == (2, 4, 3, 5, 3)
    assert torch.equal(heads[1, 2, 0, 4], x[1, 6:9, 0, 4])
    assert torch.equal(from_heads(heads), x)
    first, second = heads.chunk(2, dim=1)
    assert torch.equal(from_heads(first), x[:, :6])
    assert torch.equal(from_heads(second), x[:, 6:])


def test_queries_and_keys_turn_and_values_do_not() -> None:
    qkv = torch.randn(2, 3 * 16, 3, 5, dtype=torch.float64)
    table = rope_table(3, 5, 8, CPU, torch.float64)
    q, k, v = rotated_qkv(qkv, 2, table)
    for found, part in ((q, qkv[:, :16]), (k, qkv[:, 16:32])):
        plain = part.permute(0, 2, 3, 1).unflatten(-1, (2, 8))
        close(found, rotate(plain, table).permute(0, 3, 1, 2, 4))
    assert torch.equal(v, to_heads(qkv[:, 32:], 2))


# Global attention


def global_attention_plainly(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    q, k, flat = q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3)
    scores = torch.einsum("bgnd,bgmd->bgnm", q, k) / math.sqrt(q.shape[-1]) + bias
    return torch.einsum("bgnm,bgmd->bgnd", scores.softmax(-1), flat).view_as(v)


def test_global_attention() -> None:
    layer = randomize(GlobalAttention(heads=3, tokens=20))
    q, k, v = torch.randn(3, 2, 3, 4, 5, 6, dtype=torch.float64)
    close(layer(q, k, v), global_attention_plainly(q, k, v, layer.bias))


def test_global_attention_resizes_its_bias_to_another_map() -> None:
    layer = randomize(GlobalAttention(heads=3, tokens=20))
    q, k, v = torch.randn(3, 2, 3, 3, 4, 6, dtype=torch.float64)
    bias = F.interpolate(layer.bias[None], size=(12, 12), mode="bicubic", align_corners=False)[0]
    close(layer(q, k, v), global_attention_plainly(q, k, v, bias))
    assert layer(q, k, v).shape == v.shape


def test_resizing_a_bias() -> None:
    bias = torch.randn(3, 20, 20)
    assert resize_pair_bias(bias, 20) is bias
    assert resize_pair_bias(bias, 1).shape == (3, 1, 1)
    # Heads do not mix, and a constant stays what it is.
    constant = torch.tensor([1.0, -2.0, 3.0])[:, None, None].expand(3, 20, 20)
    assert torch.allclose(resize_pair_bias(constant, 33), constant[:, :1, :1].expand(3, 33, 33))


# The state-space layers


def test_a2ssm_is_a_scan_then_an_aggregation_then_a_readout() -> None:
    channels, heads, height, width = 20, 2, 3, 4
    layer = randomize(A2SSM(channels, heads))
    y = torch.randn(2, channels, height, width, dtype=torch.float64)

    def aggregate(states: Tensor) -> tuple[Tensor, Tensor]:
        first, second = states.chunk(2, dim=1)
        return first.cumsum(2) * 0.3, second.cumsum(3)

    u = F.silu(F.conv2d(y, layer.conv.weight, layer.conv.bias, padding=2, groups=channels)).flatten(2)
    rank = math.ceil(channels / 16)
    assert rank == 2
    projected = torch.einsum("rc,bcl->brl", layer.x_proj.weight, u)
    dt, B, C = projected[:, :rank], projected[:, rank], projected[:, rank + 1]
    delta = F.softplus(torch.einsum("cr,brl->bcl", layer.dt_proj.weight, dt) + layer.dt_proj.bias[:, None])
    A = -layer.A_log.exp()
    h = torch.zeros(2, channels, dtype=torch.float64)
    states = torch.empty_like(u)
    for t in range(height * width):
        h = torch.exp(A * delta[..., t]) * h + delta[..., t] * B[:, None, t] * u[..., t]
        states[..., t] = h
    by_head = states.view(2, heads, channels // heads, height, width).permute(0, 1, 3, 4, 2)
    states = torch.cat(aggregate(by_head), dim=1)
    mixed = torch.einsum("og,bghwd->bohwd", layer.head_mix.weight, states)
    mixed = (mixed + layer.head_mix.bias[:, None, None, None]).permute(0, 1, 4, 2, 3).flatten(1, 2)
    expected = mixed * C.view(2, 1, height, width) + layer.D[:, None, None] * u.view_as(mixed)
    close(layer(y, aggregate), expected)


def ss2d_plainly(layer: SS2D, x: Tensor) -> Tensor:
    """Four scans, one at a time: rows, columns, rows backwards, columns backwards."""
    height, width = x.shape[2:]
    rows = [(r, c) for r in range(height) for c in range(width)]
    columns = [(r, c) for c in range(width) for r in range(height)]
    out = torch.zeros_like(x)
    for k, order in enumerate((rows, columns, rows[::-1], columns[::-1])):
        u = torch.stack([x[:, :, r, c] for r, c in order], dim=-1)
        projected = torch.einsum("rc,bcl->brl", layer.x_proj_weight[k], u)
        dt, B, C = projected[:, : layer.rank], projected[:, layer.rank], projected[:, layer.rank + 1]
        delta = torch.einsum("cr,brl->bcl", layer.dt_proj_weight[k], dt)
        h = reference.selective_scan_state(u, delta, -layer.A_log[k].exp(), B, layer.dt_proj_bias[k], True)
        y = h * C[:, None] + layer.D[k][:, None] * u
        for t, (r, c) in enumerate(order):
            out[:, :, r, c] += y[..., t]
    return out


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (5, 2)])
def test_ss2d_is_four_scans(size: tuple[int, int]) -> None:
    layer = SS2D(18)
    randomize(layer)
    x = torch.randn(2, 18, *size, dtype=torch.float64)
    close(layer(x), ss2d_plainly(layer, x))


def test_initial_steps_are_between_a_thousandth_and_a_tenth() -> None:
    assert [step_rank(c) for c in (1, 16, 17, 32, 672)] == [1, 1, 2, 2, 42]
    weight, bias = torch.empty(4096, 9), torch.empty(4096)
    init_step_projection(weight, bias)
    steps = F.softplus(bias.double())
    assert 1e-3 * 0.999 < steps.min() < 1.1e-3
    assert 0.09 < steps.max() < 0.1 * 1.001
    # Log-uniform: half of them below the geometric mean.
    assert (steps < 1e-2).double().mean().item() == pytest.approx(0.5, abs=0.04)
    assert weight.abs().max() <= 1 / 3
    assert weight.std().item() == pytest.approx(1 / 3 / math.sqrt(3), rel=0.05)
    projection = torch.empty(40, 100)
    init_input_projection(projection)
    assert projection.abs().max() <= 0.1
    assert projection.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1)


# Small layers


def test_channel_affine() -> None:
    layer = ChannelAffine(3, 1e-6)
    assert layer.weight.tolist() == pytest.approx([1e-6] * 3)
    assert layer.bias.tolist() == [0, 0, 0]
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, -3.0]))
    x = torch.randn(2, 3, 4, 5)
    for channel, (weight, bias) in enumerate(((1.0, 0.0), (-2.0, 1.0), (0.5, -3.0))):
        assert torch.allclose(layer(x)[:, channel], weight * x[:, channel] + bias)
    layer.reset_parameters()
    assert layer.weight.tolist() == pytest.approx([1e-6] * 3)
    assert layer.bias.tolist() == [0, 0, 0]


def channel_matrix(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1 x 1 convolution as a matrix over the channels."""
    assert conv.bias is not None
    return torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x) + conv.bias[:, None, None]


def test_conv_ffn() -> None:
    layer = randomize(ConvFFN(4, 6))
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    y = F.gelu(channel_matrix(layer.fc1, x))
    around = F.pad(y, (1, 1, 1, 1))
    assert layer.dwconv.bias is not None
    local = layer.dwconv.bias[:, None, None].expand_as(y)
    for i in range(3):
        for j in range(3):
            local = local + layer.dwconv.weight[:, 0, i, j][:, None, None] * around[:, :, i : i + 3, j : j + 5]
    close(layer(x), channel_matrix(layer.fc2, y + local))


# The mixers


@pytest.mark.parametrize(
    ("height", "width", "kernel_size", "expected"),
    [
        (1, 1, 7, (1, 1)),
        (6, 6, 7, (1, 1)),
        (14, 13, 7, (2, 1)),
        (56, 56, 11, (5, 5)),
        (56, 56, 7, (7, 7)),  # int(56 / 7) is 8: capped at the window
        (200, 300, 11, (11, 11)),
        (200, 60, 11, (11, 5)),
    ],
)
def test_adaptive_dilation(height: int, width: int, kernel_size: int, expected: tuple[int, int]) -> None:
    assert adaptive_dilation(height, width, kernel_size) == expected


def _mixer_inputs(height: int = 7, width: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 16, height, width, dtype=torch.float64), rope_table(height, width, 8, CPU, torch.float64)


def channel_norm(x: Tensor, norm: LayerNorm2d) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), norm.weight, norm.bias, norm.eps).permute(0, 3, 1, 2)


@pytest.mark.parametrize("tokens", [None, 42, 49])
def test_mass_reads_like_the_paper(tokens: int | None) -> None:
    mass = MASS(16, 2, 3, tokens)
    randomize(mass)
    x, rope = _mixer_inputs()
    gate = F.silu(mass.gate_norm(mass.gate(x)))
    q, k, v = rotated_qkv(mass.qkv(x), 2, rope)
    lepe = F.conv2d(mass.qkv(x)[:, 32:], mass.lepe.weight, mass.lepe.bias, padding=2, groups=16)

    def first(values: Tensor) -> Tensor:
        return neighborhood_attention(q[:, :1], k[:, :1], values, mass.bias, kernel_size=3, backend="reference")

    def second(values: Tensor) -> Tensor:
        # 7 // 3 and 6 // 3
        return neighborhood_attention(
            q[:, 1:], k[:, 1:], values, mass.bias, kernel_size=3, dilation=(2, 2), backend="reference"
        )

    y1 = first(v[:, :1])
    y2 = second(y1 + v[:, 1:])
    y = torch.cat((y1, y2), dim=1)
    if tokens is None:
        assert mass.ssm is not None
        mixed = mass.ssm(from_heads(y), lambda s: (first(s[:, :1]), second(s[:, 1:])))
    else:
        assert mass.global_attention is not None
        bias = resize_pair_bias(mass.global_attention.bias, 42)
        mixed = from_heads(global_attention_plainly(q, k, y, bias))
    gated = (channel_norm(mixed, mass.norm) + lepe) * gate
    close(mass(x, rope), mass.proj(channel_norm(gated, mass.proj_norm)))


def test_the_second_branch_builds_on_the_first() -> None:
    """Changing only the values of the first branch changes the channels of the second, through the cascade."""
    mass = MASS(16, 2, 3, 42)
    randomize(mass)
    assert mass.global_attention is not None
    seen: list[Tensor] = []

    def remember(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[2].detach().clone())

    mass.global_attention.register_forward_pre_hook(remember)
    x, rope = _mixer_inputs()
    mass(x, rope)
    with torch.no_grad():  # the rows of the qkv convolution that make the first branch's values
        mass.qkv.weight[32:40] *= 1.5
    mass(x, rope)
    before, after = (from_heads(y) for y in seen)
    assert not torch.allclose(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:]), "the second branch must see the first one's output"
    with torch.no_grad():  # and not the other way round
        mass.qkv.weight[40:48] *= 1.5
    mass(x, rope)
    last = from_heads(seen[2])
    assert torch.equal(after[:, :8], last[:, :8])
    assert not torch.allclose(after[:, 8:], last[:, 8:])


@pytest.mark.parametrize("tokens", [None, 42])
def test_lass_reads_like_the_paper(tokens: int | None) -> None:
    lass = LASS(16, 2, 3, tokens)
    randomize(lass)
    x, rope = _mixer_inputs()
    q, k, v = rotated_qkv(lass.qkv(x), 2, rope)
    lepe = F.conv2d(lass.qkv(x)[:, 32:], lass.lepe.weight, lass.lepe.bias, padding=2, groups=16)
    y = neighborhood_attention(q, k, v, lass.bias, kernel_size=3, backend="reference")
    if tokens is None:
        assert lass.ssm is not None
        scanned = ss2d_plainly(lass.ssm, F.silu(lass.conv_norm(lass.conv(from_heads(y)))))
        mixed = channel_norm(scanned, lass.norm) + from_heads(y)
    else:
        assert lass.global_attention is not None
        mixed = from_heads(global_attention_plainly(q, k, y, lass.global_attention.bias))
    close(lass(x, rope), lass.proj(mixed + lepe))


@pytest.mark.parametrize("make", [MASS, LASS])
@pytest.mark.parametrize("tokens", [None, 42])
def test_every_parameter_of_a_mixer_has_a_gradient(make: Callable[..., nn.Module], tokens: int | None) -> None:
    mixer = randomize(make(16, 2, 3, tokens)).train()
    x, rope = _mixer_inputs()
    (mixer(x, rope) * torch.randn(2, 16, 7, 6)).sum().backward()
    without = [name for name, p in mixer.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert without == []


# Checkpointing


def test_checkpointing_changes_nothing_but_memory() -> None:
    """Output, gradients and running statistics are those of a plain step."""

    def block() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU())

    x = torch.randn(2, 3, 4, 5)
    plain, checkpointed = block(), block()
    expected, found = plain(x), checkpoint_block(checkpointed, x)
    assert torch.equal(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    for (name, p), (_, q) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.allclose(p.grad, q.grad), name
    for (name, a), (_, b) in zip(plain.named_buffers(), checkpointed.named_buffers(), strict=True):
        assert torch.equal(a, b), name


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 33)])
def test_a_pointwise_convolution_is_one_whatever_computes_it(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    conv = PointwiseConv(24, 40)
    x = torch.randn(1, 24, *size).contiguous(memory_format=torch.channels_last)
    linear = mock.Mock(wraps=F.linear)
    monkeypatch.setattr(F, "linear", linear)
    found = conv(x)
    assert linear.called == (size[0] * size[1] <= pointwise.FEW_POSITIONS)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    torch.testing.assert_close(found, F.conv2d(x, conv.weight, conv.bias), rtol=1e-5, atol=1e-6)
    # Where a gradient, a graph or autocast looks on, it stays a convolution.
    linear.reset_mock()
    with torch.enable_grad():
        conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        conv(x)
    assert not linear.called
