"""Any input: sizes, batches, channels, precisions; and a gradient for every parameter."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import a2mamba
from a2mamba.analysis import feature_maps
from support import reference_images, reference_model

SIZES = [(1, 1), (4, 4), (5, 3), (32, 32), (64, 200), (97, 131), (224, 224)]
LARGE_SIZES = [(384, 512), (640, 96)]


def make(name: str, in_chans: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return a2mamba.create_model(name, in_chans=in_chans, num_classes=10)


def check(model: nn.Module, images: torch.Tensor) -> None:
    logits = model(images)
    assert logits.shape == (images.shape[0], 10)
    assert logits.isfinite().all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["a2mamba_test", "segman_encoder_tiny"])
def test_sizes(name: str, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        check(make(name).eval(), torch.randn(1, 3, *size))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES + LARGE_SIZES)
@pytest.mark.parametrize("name", ["a2mamba_nano", "a2mamba_tiny", "segman_encoder_small"])
def test_sizes_of_full_models(name: str, size: tuple[int, int]) -> None:
    with torch.inference_mode():
        check(make(name).eval(), torch.randn(1, 3, *size))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(1, 90), st.integers(1, 90))
def test_any_size(height: int, width: int) -> None:
    with torch.inference_mode():
        check(SHARED, torch.randn(1, 3, height, width))


SHARED = make("a2mamba_test").eval()


@pytest.mark.parametrize(("batch", "in_chans"), list(itertools.product([0, 1, 3], [1, 3, 4])))
def test_batches_and_channels(batch: int, in_chans: int) -> None:
    with torch.inference_mode():
        check(make("a2mamba_test", in_chans).eval(), torch.randn(batch, in_chans, 48, 40))


def test_empty_batches_go_backward() -> None:
    model = make("a2mamba_test").eval()
    images = torch.randn(0, 3, 40, 40, requires_grad=True)
    model(images).sum().backward()
    assert images.grad is not None
    assert all((p.grad == 0).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("name", "training", "tolerance"),
    [
        ("a2mamba_nano", False, 0.02),
        ("a2mamba_nano", True, 0.02),
        ("segman_encoder_tiny", False, 0.02),
        # Its mixers end in a sum of four scans of a batch-normalized map: statistics of two images amplify rounding.
        ("segman_encoder_tiny", True, 0.05),
    ],
)
def test_bfloat16_autocast_follows_float32(name: str, training: bool, tolerance: float) -> None:
    model = copy.deepcopy(reference_model(name)).train(training)
    images = reference_images(2, 97, 131)
    expected = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(images)
    found.float().square().mean().backward()
    assert found.isfinite().all()
    assert ((found.float() - expected).norm() / expected.norm()) < tolerance
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "name",
    ["a2mamba_test", "a2mamba_nano"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in a2mamba.list_models() if not n.endswith(("_test", "_nano"))],
)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = a2mamba.create_model(name, img_size=64).train()
    for parameter in model.parameters():
        # Away from the initial zeros (and layer scales of 1e-6), where some gradients vanish or drown.
        parameter.data += 0.02 * torch.randn_like(parameter)
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_feature_maps_are_predicted_without_computing() -> None:
    model = a2mamba.create_model("a2mamba_test").eval()
    with torch.inference_mode():
        maps = model.forward_intermediates(torch.zeros(1, 3, 97, 131), intermediates_only=True)
    predicted = feature_maps(model, (3, 97, 131))
    assert [(m["channels"], m["height"], m["width"]) for m in predicted] == [tuple(m.shape[1:]) for m in maps]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 4, 64, 64), (1, 3, 0, 64), (1, 3, 64, 0)])
def test_images_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected images \(B, 3, H, W\) with H and W at least 1"):
        make("a2mamba_test")(torch.zeros(shape))
