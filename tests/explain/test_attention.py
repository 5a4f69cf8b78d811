"""Attention maps for one query, against the operator's specification and against what the network computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from a2mamba.explain import AttentionMap, attention_maps
from a2mamba.explain.network import blocks_of, pyramid_of
from a2mamba.layers import MASS
from a2mamba.layers.heads import rotated_qkv
from a2mamba.ops.neighborhood import reference
from support import normal

from .networks import classifier, detector, segmenter

HEIGHT, WIDTH = 75, 98
POINTS = [(0, 0), (41, 38), (97, 74)]


def find(maps: list[AttentionMap], stage: int, block: int, branch: str) -> AttentionMap:
    (found,) = [each for each in maps if (each.stage, each.block, each.branch) == (stage, block, branch)]
    return found


def inputs_of_mixers(model: nn.Module, image: Tensor) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
    pyramid = pyramid_of(model)
    seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    hooks = [
        block.mixer.register_forward_pre_hook(lambda _, inputs, place=(stage, i): seen.update({place: inputs}))
        for stage, i, block in blocks_of(pyramid)
    ]
    with torch.no_grad():
        pyramid.forward_features(image)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("point", POINTS)
def test_weights_are_those_of_the_reference(point: tuple[int, int]) -> None:
    model = classifier()
    image = normal("explained", 1, 3, HEIGHT, WIDTH)
    maps = attention_maps(model, image, point)
    seen = inputs_of_mixers(model, image)
    assert len(maps) == 2 * len(seen) + len(model.stage_list()[3].blocks)
    for stage, number, block in blocks_of(model):
        mixer = block.mixer
        assert isinstance(mixer, MASS)
        x, rope = seen[stage, number]
        q, k, _ = rotated_qkv(mixer.qkv(x), mixer.heads, rope)
        height, width = x.shape[2:]
        dilation = (max(1, min(height // mixer.kernel_size, mixer.kernel_size)),) * 2
        dilation = (dilation[0], max(1, min(width // mixer.kernel_size, mixer.kernel_size)))
        row, column = point[1] // (4 * 2**stage), point[0] // (4 * 2**stage)
        window = (mixer.kernel_size,) * 2
        for branch, part, rate in (("sliding", 0, (1, 1)), ("dilated", 1, dilation)):
            found = find(maps, stage, number, branch)
            expected = reference.attention_map(
                q.chunk(2, 1)[part], k.chunk(2, 1)[part], mixer.bias, window, rate, q.shape[-1] ** -0.5
            )
            assert found.query == (row, column)
            torch.testing.assert_close(found.weights, expected[0, :, row, column].detach(), rtol=1e-5, atol=1e-6)
            values = normal("values", 1, mixer.heads // 2, height, width, 5)
            applied = reference.apply_map(expected, values, window, rate)[0, :, row, column]
            on_map = torch.einsum("ghw,ghwe->ge", found.on_map(), values[0])
            torch.testing.assert_close(on_map, applied.detach(), rtol=1e-5, atol=1e-5)


def test_global_attention_is_what_the_layer_applies() -> None:
    model = classifier()
    image = normal("explained", 1, 3, HEIGHT, WIDTH)
    maps = attention_maps(model, image, (41, 38))
    x, rope = inputs_of_mixers(model, image)[3, 0]
    mixer: Any = pyramid_of(model).stage_list()[3].blocks[0].mixer
    q, k, _ = rotated_qkv(mixer.qkv(x), mixer.heads, rope)
    values = torch.randn_like(q)
    with torch.no_grad():
        expected = mixer.global_attention(q, k, values)[0]
    found = find(maps, 3, 0, "global")
    applied = torch.einsum("ghw,ghwe->ge", found.on_map(), values[0])
    torch.testing.assert_close(applied, expected[:, found.query[0], found.query[1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["a2mamba_test", "ablation_lass_test", "ablation_dilations_3_5_7_test", "ablation_acmix_test"]
)
def test_maps_on_the_image_sum_to_one(name: str) -> None:
    model = classifier(name)
    maps = attention_maps(model, normal("explained", 3, HEIGHT, WIDTH), (97, 74))
    assert {each.stage for each in maps} == {0, 1, 2, 3}
    for each in maps:
        on_image = each.on_image()
        assert on_image.shape == (len(each.weights), HEIGHT, WIDTH)
        assert (on_image >= 0).all()
        torch.testing.assert_close(on_image.sum((1, 2)), torch.ones(len(on_image)))


def test_a_query_lies_in_its_own_neighborhood_on_the_image() -> None:
    """The pixel that was asked about is among those that the sliding branch gives weight to, and these are near it."""
    model = classifier()
    for x, y in POINTS:
        for each in attention_maps(model, normal("explained", 3, HEIGHT, WIDTH), (x, y)):
            if each.branch != "sliding":
                continue
            on_image = each.on_image()
            assert (on_image[:, y, x] > 0).all()
            mixer = model.stage_list()[each.stage].blocks[each.block].mixer
            assert isinstance(mixer, MASS)
            assert int((on_image[0].sum(1) > 0).sum()) <= mixer.kernel_size * each.stride


def test_segmenters_and_detectors_are_explained_by_their_backbones() -> None:
    image = normal("explained", 1, 3, 64, 64)
    for network in (segmenter(), detector()):
        alone = attention_maps(pyramid_of(network), image, (10, 20))
        within = attention_maps(network, image, (10, 20))
        assert len(alone) == len(within) > 8
        for a, b in zip(alone, within, strict=True):
            assert torch.equal(a.weights, b.weights)


def test_hooks_are_gone_afterwards_and_the_network_is_unchanged() -> None:
    model = classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attention_maps(model, normal("explained", 3, HEIGHT, WIDTH), (0, 0))
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_mistakes_are_named() -> None:
    model = classifier()
    image = normal("explained", 3, 40, 50)
    with pytest.raises(ValueError, match=r"\(50, 0\) is outside the image, which is 50 x 40"):
        attention_maps(model, image, (50, 0))
    with pytest.raises(ValueError, match="expected one image"):
        attention_maps(model, torch.zeros(2, 3, 8, 8), (0, 0))
    with pytest.raises(ValueError, match="training mode"):
        attention_maps(model.train(), image, (0, 0))
    with pytest.raises(ValueError, match="has no backbone of A2Mamba or SegMAN"):
        attention_maps(nn.Conv2d(3, 3, 1).eval(), image, (0, 0))
    with pytest.raises(ValueError, match="no neighborhood attention"):
        attention_maps(classifier("ablation_pvt_test"), image, (0, 0))
