"""16-bit outputs stay close to the float32 ones, for every variant with the weights of the reference runs.

``benchmarks/half_precision.py`` measures the same at more sizes.
"""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import a2mamba
from support import reference_images, reference_model, relative_error, released_layout

TOLERANCE = 0.02
HALVES = [torch.bfloat16, torch.float16]
every_dtype = pytest.mark.parametrize("dtype", HALVES, ids=str)
LARGE = ("_base", "_large")
every_variant = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n.endswith(LARGE) else n for n in sorted(released_layout())],
)


def logits(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the logits under autocast, or as they are in float32."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        return model(images)


@cache
def exact(name: str, size: int) -> Tensor:
    """Return the float32 logits of a reference model, computed once for all dtypes; do not change them."""
    return logits(reference_model(name), reference_images(1, size, size), torch.float32)


def rounded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a float32 copy whose convolutions and linear maps have weights that ``dtype`` can hold."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data = module.weight.data.to(dtype).float()
    return other


@every_variant
@every_dtype
def test_autocast(name: str, dtype: torch.dtype) -> None:
    model, images = reference_model(name), reference_images(1, 224, 224)
    expected, found = exact(name, 224), logits(model, images, dtype)
    tolerance = TOLERANCE
    if (name, dtype) == ("a2mamba_small", torch.bfloat16):
        # With these weights, rounding them is alone more than 2 %, everything else being exact.
        inevitable = relative_error(logits(rounded(model, dtype), images, torch.float32), expected)
        assert inevitable > TOLERANCE
        tolerance = 1.5 * inevitable
    assert relative_error(found, expected) < tolerance


@pytest.mark.parametrize("name", ["a2mamba_nano", "segman_encoder_tiny"])
@every_dtype
def test_weights_in_16_bits(name: str, dtype: torch.dtype) -> None:
    model, images = reference_model(name), reference_images(1, 224, 224)
    expected = exact(name, 224)
    with torch.inference_mode():
        found = copy.deepcopy(model).to(dtype)(images.to(dtype))
    assert found.dtype == dtype
    assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("size", [512, pytest.param(1024, marks=pytest.mark.slow)])
@every_dtype
def test_larger_images(size: int, dtype: torch.dtype) -> None:
    model, images = reference_model("a2mamba_nano"), reference_images(1, size, size)
    assert relative_error(logits(model, images, dtype), exact("a2mamba_nano", size)) < TOLERANCE


@pytest.mark.parametrize("name", ["a2mamba_test", "a2mamba_nano", "segman_encoder_tiny"])
@every_dtype
def test_training_is_finite(name: str, dtype: torch.dtype) -> None:
    """Logits and every gradient; float16 without loss scaling may round gradients to zero, but not to infinity."""
    torch.manual_seed(0)
    model = a2mamba.create_model(name).train()
    with torch.autocast("cpu", dtype=dtype):
        found = model(reference_images(2, 96, 96))
    found.float().square().mean().backward()
    assert found.isfinite().all()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
