"""The mixers of the ablations: what they compute where that is known in another way, and what every mixer must do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers import LASS, MASS, rope_table
from a2mamba.layers.acmix import ACmix
from a2mamba.layers.bi_level import BiLevelRouting
from a2mamba.layers.block_grid import BlockGrid
from a2mamba.layers.deformable import DepthwiseDeformable
from a2mamba.layers.heads import from_heads, rotated_qkv
from a2mamba.layers.mass_parts import REP_CONV_BRANCHES, MASSOptions, MASSParts
from a2mamba.layers.rep_conv import RepConv
from a2mamba.layers.row_scan import RowScan
from a2mamba.layers.spatial_reduction import SpatialReduction
from a2mamba.layers.ss2d import SS2D
from a2mamba.layers.windows import from_windows, pad_to_grid, to_windows
from a2mamba.ops import neighborhood_attention

CHANNELS, HEADS = 32, 4


def bias_of(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def parts(**options: Any) -> Callable[..., MASSParts]:
    return partial(MASSParts, options=MASSOptions(**options))


MIXERS: dict[str, tuple[Callable[..., nn.Module], int]] = {
    "ama": (parts(scan="four directions", gate=False), 5),
    "rows": (parts(scan="rows", gate=False), 5),
    "no gate": (parts(gate=False), 5),
    "dilation 3": (parts(dilations=(1, 3)), 5),
    "four branches": (parts(dilations=(1, 3, 5, 7)), 3),
    "local": (parts(dilations=(1,)), 5),
    "rep_conv": (parts(aggregate="rep_conv"), 5),
    "deform_conv": (parts(aggregate="deform_conv"), 5),
    "no aggregation": (parts(aggregate="none"), 5),
    "pvt": (SpatialReduction, 4),
    "max_vit": (BlockGrid, 2),
    "acmix": (ACmix, 7),
    "bi_former": (BiLevelRouting, 4),
}


def rope(height: int, width: int) -> Tensor:
    return rope_table(height, width, CHANNELS // HEADS, torch.device("cpu"), torch.float32)


def random_state(module: nn.Module) -> None:
    """Give every parameter and statistic a value of its own, so that nothing is hidden by a zero or a one."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(0.5 + noise.abs() if name.endswith("running_var") else 0.2 * noise)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("global_tokens", [None, 12])
def test_shapes_and_gradients(name: str, global_tokens: int | None) -> None:
    """Every size of map; every parameter matters."""
    torch.manual_seed(0)
    make, kernel_size = MIXERS[name]
    mixer = make(CHANNELS, HEADS, kernel_size, global_tokens)
    random_state(mixer)
    for height, width in ((9, 13), (7, 4), (1, 3), (16, 16)):
        x = torch.randn(2, CHANNELS, height, width)
        out = mixer(x, rope(height, width))
        assert out.shape == x.shape
        assert out.isfinite().all()
        out.square().mean().backward()
    for parameter_name, parameter in mixer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("name", MIXERS)
def test_images_of_a_batch_do_not_see_each_other(name: str) -> None:
    make, kernel_size = MIXERS[name]
    mixer = make(CHANNELS, HEADS, kernel_size).eval()
    random_state(mixer)
    x = torch.randn(2, CHANNELS, 9, 10)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, rope(9, 10))[1:], mixer(x[1:], rope(9, 10)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("global_tokens", [None, 90])
def test_all_parts_together_are_mass(global_tokens: int | None) -> None:
    expected = MASS(CHANNELS, HEADS, 5, global_tokens).eval()
    random_state(expected)
    mixer = parts()(CHANNELS, HEADS, 5, global_tokens).eval()
    mixer.load_state_dict(expected.state_dict())
    x = torch.randn(2, CHANNELS, 9, 10)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, rope(9, 10)), expected(x, rope(9, 10)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("global_tokens", [None, 90])
def test_the_first_parts_are_lass(global_tokens: int | None) -> None:
    expected = LASS(CHANNELS, HEADS, 5, global_tokens).eval()
    random_state(expected)
    mixer = parts(dilations=(1,), scan="four directions", gate=False)(CHANNELS, HEADS, 5, global_tokens).eval()
    mixer.load_state_dict(expected.state_dict())
    x = torch.randn(2, CHANNELS, 9, 10)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, rope(9, 10)), expected(x, rope(9, 10)), rtol=1e-5, atol=1e-6)


def test_a_dilation_that_does_not_fit_is_the_largest_that_does() -> None:
    """At 224 the dilations 5 and 7 are the adaptive rule itself: 5, 3, 2, 1."""
    for side, kernel_size in ((56, 11), (28, 9), (14, 7)):
        mixers = [parts(dilations=(1, rate))(16, 2, kernel_size).eval() for rate in (5, 7, "adaptive")]
        random_state(mixers[0])
        x = torch.randn(1, 16, side, side)
        table = rope_table(side, side, 8, torch.device("cpu"), torch.float32)
        outputs = []
        for mixer in mixers:
            mixer.load_state_dict(mixers[0].state_dict())
            with torch.no_grad():
                outputs.append(mixer(x, table))
        torch.testing.assert_close(outputs[0], outputs[2])
        torch.testing.assert_close(outputs[1], outputs[2])


def test_parts_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="neither a gate"):
        MASSOptions(scan="rows")
    with pytest.raises(ValueError, match="at least one branch"):
        MASSOptions(dilations=())
    with pytest.raises(ValueError, match="2 heads cannot be shared by 4"):
        parts(dilations=(1, 3, 5, 7))(16, 2, 5)


def test_branches_of_rep_conv_fit_their_kernels() -> None:
    for size, branches in REP_CONV_BRANCHES.items():
        assert RepConv(2, size, branches)(torch.randn(2, 2, 5, 5)).shape == (2, 2, 5, 5)


def test_a_row_scan_is_the_recurrence() -> None:
    scan = RowScan(16).double()
    random_state(scan)
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    tokens = x.flatten(2).transpose(1, 2)
    dt, B, C = scan.x_proj(tokens).split((scan.rank, 1, 1), dim=-1)
    step = F.softplus(scan.dt_proj(dt))
    state, outputs = torch.zeros(2, 16, dtype=torch.float64), []
    for t in range(12):
        state = torch.exp(-scan.A_log.exp() * step[:, t]) * state + step[:, t] * B[:, t] * tokens[:, t]
        outputs.append(C[:, t] * state + scan.D * tokens[:, t])
    expected = torch.stack(outputs, dim=2).view_as(x)
    torch.testing.assert_close(scan(x), expected, rtol=1e-5, atol=1e-6)


def test_four_scans_of_which_three_are_silent_are_one() -> None:
    four, one = SS2D(16), RowScan(16)
    with torch.no_grad():
        for parameter in four.parameters():
            parameter[1:] = 0
        one.x_proj.weight.copy_(four.x_proj_weight[0])
        one.dt_proj.weight.copy_(four.dt_proj_weight[0])
        one.dt_proj.bias.copy_(four.dt_proj_bias[0])
    x = torch.randn(1, 16, 4, 5)
    torch.testing.assert_close(four(x), one(x), rtol=1e-5, atol=1e-6)


def test_a_deformable_convolution_begins_as_half_a_plain_one() -> None:
    conv = DepthwiseDeformable(6, 5)
    x = torch.randn(2, 6, 7, 8)
    expected = 0.5 * F.conv2d(x, conv.weight, padding=2, groups=6)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


def test_an_offset_moves_the_taps() -> None:
    """All offsets one down: the plain convolution of the map moved up."""
    conv = DepthwiseDeformable(4, 3)
    with torch.no_grad():
        bias_of(conv.predict)[: 2 * 9 : 2] = 1
    x = torch.randn(1, 4, 6, 6)
    moved = F.pad(x, (0, 0, 0, 1))[:, :, 1:]
    expected = 0.5 * F.conv2d(moved, conv.weight, padding=1, groups=4)
    torch.testing.assert_close(conv(x)[:, :, 1:-2], expected[:, :, 1:-2], rtol=1e-4, atol=1e-5)


def test_windows_come_back() -> None:
    x = torch.randn(2, 3, 6, 9)
    cut = to_windows(x, 3)
    assert cut.shape == (2, 9, 6, 3)
    torch.testing.assert_close(cut[:, 1, 0], x[:, :, 0, 3])
    torch.testing.assert_close(from_windows(cut, 3, 6, 9), x)
    assert pad_to_grid(x, 4).shape == (2, 3, 8, 12)


def _full_attention(mixer: nn.Module, x: Tensor, qkv: Callable[[Tensor], Tensor]) -> Tensor:
    q, k, v = (part.flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3) for part in qkv(x).chunk(3, dim=1))
    mixed = F.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(2, 3).flatten(1, 2).view_as(x)


def test_spatial_reduction_by_one_is_full_attention() -> None:
    mixer = SpatialReduction(CHANNELS, HEADS, 1)
    x = torch.randn(2, CHANNELS, 5, 6)

    def qkv(values: Tensor) -> Tensor:
        return torch.cat((mixer.q(values), mixer.kv(values)), dim=1)

    expected = mixer.proj(_full_attention(mixer, x, qkv))
    torch.testing.assert_close(mixer(x, rope(5, 6)), expected, rtol=1e-4, atol=1e-5)


def test_all_regions_routed_are_full_attention() -> None:
    mixer = BiLevelRouting(CHANNELS, HEADS, 49)
    x = torch.randn(2, CHANNELS, 9, 10)
    lepe = mixer.lepe(mixer.qkv(x)[:, 2 * CHANNELS :])
    expected = mixer.proj(_full_attention(mixer, x, mixer.qkv) + lepe)
    torch.testing.assert_close(mixer(x, rope(9, 10)), expected, rtol=1e-4, atol=1e-5)


def test_routing_looks_at_the_regions_that_fit_best() -> None:
    """Two regions have queries and keys of their own; with one route, each sees itself alone."""
    mixer = BiLevelRouting(4, 1, 1)
    with torch.no_grad():
        mixer.qkv.weight.zero_()
        bias_of(mixer.qkv).zero_()
        for i in range(4):
            mixer.qkv.weight[[i, 4 + i, 8 + i], i] = 1
        mixer.lepe.weight.zero_()
        bias_of(mixer.lepe).zero_()
        mixer.proj.weight.copy_(torch.eye(4)[..., None, None])
        bias_of(mixer.proj).zero_()
    x = torch.zeros(1, 4, 14, 14)
    x[:, 0, :2, :2], x[:, 1, 12:, 12:] = 3.0, 5.0
    out = mixer(x, rope(14, 14))
    torch.testing.assert_close(out[:, :, :2, :2], x[:, :, :2, :2])
    torch.testing.assert_close(out[:, :, 12:, 12:], x[:, :, 12:, 12:])


def test_one_block_is_full_attention_twice() -> None:
    """With one window block attention is full; grid attention then has every position alone."""
    mixer = BlockGrid(CHANNELS, HEADS, 1)
    x = torch.randn(2, CHANNELS, 5, 6)
    expected = mixer.proj(_full_attention(mixer, x, mixer.qkv))
    torch.testing.assert_close(mixer(x, rope(5, 6)), expected, rtol=1e-4, atol=1e-5)


def test_block_and_grid_reach_from_corner_to_corner() -> None:
    """A position sees its window by the first attention, all windows by the second."""
    mixer = BlockGrid(CHANNELS, HEADS, 2).eval()
    x = torch.randn(1, CHANNELS, 8, 8, requires_grad=True)
    mixer(x, rope(8, 8))[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1)) > 0
    assert seen.all()


def test_padding_is_not_attended() -> None:
    """What lies outside a map of odd size must not matter: constant maps stay constant."""
    for mixer in (BlockGrid(CHANNELS, HEADS, 2), BiLevelRouting(CHANNELS, HEADS, 49)):
        x = torch.randn(1, CHANNELS, 1, 1).expand(1, CHANNELS, 9, 11).contiguous()
        values = mixer.qkv(x)[:, 2 * CHANNELS :]
        if isinstance(mixer, BiLevelRouting):
            values = values + mixer.lepe(values)
        torch.testing.assert_close(mixer(x, rope(9, 11)), mixer.proj(values), rtol=1e-4, atol=1e-5)


def test_the_two_ways_of_acmix() -> None:
    mixer = ACmix(CHANNELS, HEADS, 3).eval()
    x = torch.randn(2, CHANNELS, 6, 7)
    qkv = mixer.qkv(x)
    with torch.no_grad():
        mixer.shares.copy_(torch.tensor([1.0, 0.0]))
        q, k, v = rotated_qkv(qkv, HEADS, rope(6, 7))
        attended = from_heads(neighborhood_attention(q, k, v, mixer.bias, kernel_size=3))
        torch.testing.assert_close(mixer(x, rope(6, 7)), mixer.proj(attended), rtol=1e-4, atol=1e-5)
        # As it begins, channel d * j + i of the convolution's way is the sum of channel j's nine maps, each moved.
        mixer.shares.copy_(torch.tensor([0.0, 1.0]))
        bias_of(mixer.move).zero_()
        head_dim = CHANNELS // HEADS
        maps = torch.einsum("bgdhw,tg->bdthw", qkv.unflatten(1, (3 * HEADS, head_dim)), mixer.taps.weight)
        padded = F.pad(maps, (1, 1, 1, 1))
        moved = sum(padded[:, :, t, t // 3 : t // 3 + 6, t % 3 : t % 3 + 7] for t in range(9))
        assert isinstance(moved, Tensor)
        expected = mixer.proj(moved.repeat_interleave(CHANNELS // head_dim, dim=1))
        torch.testing.assert_close(mixer(x, rope(6, 7)), expected, rtol=1e-4, atol=1e-5)
