"""Hidden states, against the operators that make them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from a2mamba.explain import hidden_states
from a2mamba.layers import MASS
from a2mamba.layers.heads import rotated_qkv
from a2mamba.layers.mass import adaptive_dilation
from a2mamba.ops.neighborhood import reference
from support import normal

from .networks import classifier, detector, segmenter


def test_after_is_before_with_the_attention_maps_applied() -> None:
    model = classifier()
    seen: list[tuple[Tensor, Tensor]] = []
    mixer = model.stage_list()[1].blocks[0].mixer
    assert isinstance(mixer, MASS)
    hook = mixer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    image = normal("explained", 1, 3, 75, 98)
    states = hidden_states(model, image)
    hook.remove()
    ((x, rope),) = seen
    found = next(each for each in states if (each.stage, each.block) == (1, 0))
    q, k, _ = rotated_qkv(mixer.qkv(x), mixer.heads, rope)
    window = (mixer.kernel_size,) * 2
    rates = (1, 1), adaptive_dilation(x.shape[2], x.shape[3], mixer.kernel_size)
    for part, rate in enumerate(rates):
        queries, keys, values = (each.chunk(2, 1)[part] for each in (q, k, found.before[None]))
        scale = q.shape[-1] ** -0.5
        expected = reference.neighborhood_attention(queries, keys, values, mixer.bias, window, rate, scale)
        torch.testing.assert_close(found.after[None].chunk(2, 1)[part], expected.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found.before, found.after)


def test_every_block_with_a_scan_is_there_and_the_output_is_unchanged() -> None:
    model = classifier()
    image = normal("explained", 1, 3, 64, 64)
    with torch.no_grad():
        before = model(image)
        states = hidden_states(model, image)
        assert torch.equal(model(image), before)
    depths = [len(stage.blocks) for stage in model.stage_list()]
    assert [each.stage for each in states] == [stage for stage in range(3) for _ in range(depths[stage])]
    for each in states:
        side = 64 // (4 * 2**each.stage)
        assert each.before.shape == each.after.shape
        assert [strength.shape for strength in each.strength()] == [(side, side)] * 2


def test_strength_is_a_root_mean_square() -> None:
    (first, *_) = hidden_states(classifier(), normal("explained", 3, 32, 32))
    before, _ = first.strength()
    assert float(before[2, 3]) == pytest.approx(float(first.before[:, 2, 3].square().mean()) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("make", [segmenter, detector])
def test_systems_have_those_of_their_backbones(make: Callable[[], nn.Module]) -> None:
    assert len(hidden_states(make(), normal("explained", 3, 64, 64))) > 2


def test_a_network_without_such_states_is_refused() -> None:
    with pytest.raises(ValueError, match="no A2SSM"):
        hidden_states(classifier("ablation_lass_test"), torch.zeros(3, 32, 32))
