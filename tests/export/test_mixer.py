"""MASS as it is exported, against MASS."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import nn

import a2mamba
from a2mamba.export.mixer import TokenMASS, on_tokens, swap_pairs
from a2mamba.layers import MASS
from a2mamba.layers.rope import rope_table


def mixer(global_tokens: int | None) -> MASS:
    torch.manual_seed(0)
    mixer = MASS(32, 4, 3, global_tokens).eval()
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name.endswith(("bias", "norm.weight", "D")):
                parameter.normal_()
    return mixer


@pytest.mark.parametrize("global_tokens", [None, 70])
def test_it_computes_what_mass_does(global_tokens: int | None) -> None:
    original = mixer(global_tokens)
    x, rope = torch.randn(3, 32, 10, 7), rope_table(10, 7, 8, torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        expected = original(x, rope)
        found = TokenMASS(original)(x, rope)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_pairs_are_swapped_as_a_rotation_needs() -> None:
    a, b, c, d = range(1, 5)
    assert (torch.tensor([a, b, c, d]).float() @ swap_pairs(4)).tolist() == [-b, a, -d, c]


def test_every_mixer_is_exchanged_in_a_copy_that_shares_the_tensors() -> None:
    network = nn.Sequential(a2mamba.create_model("a2mamba_test").eval())
    exchanged = on_tokens(network)
    assert sum(isinstance(module, TokenMASS) for module in exchanged.modules()) == 5
    assert not any(isinstance(module, TokenMASS) for module in network.modules())
    tensors = chain(exchanged.parameters(), network.parameters())
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(list(network.parameters()))
