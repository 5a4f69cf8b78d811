"""A fused model is the same function, says what it is, and leaves the model that it was made from alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import a2mamba
from a2mamba.backbone import CheckpointError, Pyramid, fuse_for_inference, is_fused
from a2mamba.layers import ChannelAffine
from support import reference_tensor, relative_error

SMALL = ["a2mamba_test", "a2mamba_nano", "segman_encoder_tiny"]
every_small = pytest.mark.parametrize("name", SMALL)


def fill(model: nn.Module) -> nn.Module:
    """Give every tensor of a model a value that is neither 0 nor 1, and put it in evaluation mode."""
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(reference_tensor(name, list(tensor.shape)))
    return model.eval()


def make(name: str, **options: Any) -> nn.Module:
    return fill(a2mamba.create_model(name, **options))


def images(height: int = 96, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@every_small
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_same_logits(name: str, dtype: torch.dtype, tolerance: float) -> None:
    model = make(name).to(dtype)
    fused = fuse_for_inference(model)
    x = images().to(dtype)
    with torch.no_grad():
        expected, found = model(x), fused(x)
    assert found.dtype == dtype
    assert relative_error(found, expected) < tolerance
    assert not norms(fused)
    assert not any(isinstance(m, ChannelAffine) for n, m in fused.named_modules() if n.endswith(("scale1", "scale2")))


def test_layer_scales_were_there_to_fold() -> None:
    assert isinstance(make("a2mamba_test").get_submodule("stages.3.blocks.0.scale2"), ChannelAffine)


@every_small
def test_the_model_itself_is_unchanged(name: str) -> None:
    model = make(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    fused = fuse_for_inference(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    pointers = {tensor.data_ptr() for tensor in after.values()}
    assert not pointers & {tensor.data_ptr() for tensor in fused.state_dict().values()}


@every_small
def test_feature_extractors(name: str) -> None:
    model = make(name, features_only=True)
    fused = fuse_for_inference(model)
    with torch.no_grad():
        for found, expected in zip(fused(images()), model(images()), strict=True):
            assert relative_error(found, expected) < 1e-5
    assert not norms(fused)


def test_models_without_classifier_or_head() -> None:
    bare, pruned = make("a2mamba_nano", num_classes=0), make("a2mamba_nano")
    assert isinstance(pruned, Pyramid)
    pruned.prune_intermediate_layers([1])
    with torch.no_grad():
        for model in (bare, pruned):
            assert relative_error(fuse_for_inference(model)(images()), model(images())) < 1e-5


def test_a_backbone_inside_another_model() -> None:
    """Only the backbone is fused."""
    outer = nn.Sequential(a2mamba.create_model("a2mamba_test", num_classes=4, global_pool=""), nn.BatchNorm2d(4))
    fill(outer)
    fused = fuse_for_inference(outer)
    with torch.no_grad():
        assert relative_error(fused(images()), outer(images())) < 1e-5
    assert is_fused(fused[0])
    assert len(norms(fused)) == 1


@pytest.mark.parametrize("name", a2mamba.list_models())
def test_every_variant_can_be_fused(name: str) -> None:
    model = a2mamba.create_model(name, device="meta").eval()
    fused = fuse_for_inference(model)
    assert norms(model)
    assert not norms(fused)
    assert fused(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


@every_small
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(name: str, dtype: torch.dtype) -> None:
    model = make(name)
    fused = fuse_for_inference(model)
    with torch.no_grad():
        expected = model(images())
        with torch.autocast("cpu", dtype=dtype):
            found = fused(images())
    assert relative_error(found, expected) < 0.02


def test_compiled() -> None:
    fused = fuse_for_inference(make("a2mamba_test"))
    with torch.no_grad():
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images()), fused(images()), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_fused() -> None:
    model = make("a2mamba_test")
    with pytest.raises(ValueError, match=r"training mode .* call model.eval\(\) first"):
        fuse_for_inference(model.train())
    with pytest.raises(ValueError, match="Linear contains no A2Mamba or SegMAN part"):
        fuse_for_inference(nn.Linear(1, 1).eval())
    fused = fuse_for_inference(model.eval())
    assert is_fused(fused)
    assert not is_fused(model)
    with pytest.raises(ValueError, match="fused before"):
        fuse_for_inference(fused)


def test_the_state_of_a_fused_model_is_marked() -> None:
    """It fits models that are fused, and no others."""
    model = make("a2mamba_test")
    fused = fuse_for_inference(model)
    other = fuse_for_inference(a2mamba.create_model("a2mamba_test").eval())
    other.load_state_dict(fused.state_dict())
    with torch.no_grad():
        assert torch.equal(other(images()), fused(images()))
    with pytest.raises(CheckpointError, match="fused_for_inference"):
        a2mamba.load_checkpoint(model, fused.state_dict())
    with pytest.raises(CheckpointError, match="fused_for_inference"):
        a2mamba.load_checkpoint(fused, model.state_dict())
    with pytest.raises(CheckpointError, match="fused model has no released layout"):
        a2mamba.to_released(fused)
