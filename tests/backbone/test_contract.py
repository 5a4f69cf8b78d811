"""timm's conventions, for every registered backbone that is small enough to run here."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from timm.models import save_for_hf
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

import a2mamba
from a2mamba.backbone import A2Mamba, BackboneOptions, ModelOptions
from a2mamba.backbone.registry import BUILDER_OPTIONS
from a2mamba.detection import DetectorOptions
from a2mamba.segmentation import SegmenterOptions

SMALL = ["a2mamba_test", "a2mamba_nano", "segman_encoder_tiny"]
ALL = a2mamba.list_models()
every_small = pytest.mark.parametrize("name", SMALL)


def make(name: str, **options: Any) -> Any:
    return timm.create_model(name, **options)


pytestmark = pytest.mark.usefixtures("seeded")


def test_all_variants_are_registered() -> None:
    assert len(ALL) == 11
    assert set(ALL) <= set(timm.list_models())
    released = {f"a2mamba_{size}.in1k" for size in ("nano", "tiny", "small", "base", "large")}
    assert released <= set(timm.list_models(pretrained=True))


@pytest.mark.parametrize("name", ALL)
def test_weight_records_match_the_model(name: str) -> None:
    model = make(name, device="meta")
    record = model.pretrained_cfg
    names = model.state_dict().keys()
    assert f"{record['classifier']}.weight" in names
    assert f"{record['first_conv']}.weight" in names
    assert record["input_size"] == (3, 224, 224)
    assert record["interpolation"] == "bicubic"
    crops = {"base": 0.95, "large": 0.95 if "segman" in name else 0.975, "paper": 0.975}
    assert record["crop_pct"] == crops.get(name.split("_")[-1], 0.9)
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_both_entrances_make_the_same_model() -> None:
    a = make("a2mamba_test", num_classes=5)
    b = a2mamba.create_model("a2mamba_test", num_classes=5)
    assert type(a) is type(b) is A2Mamba
    b.load_state_dict(a.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(a.eval()(images), b.eval()(images))


@every_small
def test_features_only(name: str) -> None:
    images = torch.randn(2, 3, 96, 64)
    model = make(name, features_only=True).eval()
    maps = model(images)
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for found, channels, stride in zip(maps, model.feature_info.channels(), (4, 8, 16, 32), strict=True):
        assert found.shape == (2, channels, 96 // stride, 64 // stride)
    chosen = make(name, features_only=True, out_indices=(1, 3)).eval()
    assert chosen.feature_info.reduction() == [8, 32]
    assert [m.shape[-1] for m in chosen(images)] == [8, 2]
    getter = make(name, features_only=True, feature_cls="getter").eval()
    getter.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(getter(images), maps, strict=True))
    last = make(name, features_only=True, out_indices=[-2]).eval()
    assert [m.shape[-1] for m in last(images)] == [4]


@every_small
def test_forward_parts_agree(name: str) -> None:
    model = make(name).eval()
    images = torch.randn(2, 3, 64, 96)
    logits = model(images)
    features = model.forward_features(images)
    assert features.shape == (2, model.num_features, 2, 3)
    assert torch.equal(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    last, maps = model.forward_intermediates(images)
    assert torch.equal(last, features)
    assert len(maps) == 4
    some = model.forward_intermediates(images, indices=2, intermediates_only=True, output_fmt="NHWC")
    assert torch.equal(some[0].permute(0, 3, 1, 2), maps[2])
    early, one = model.forward_intermediates(images, indices=[1], stop_early=True)
    assert torch.equal(early, maps[1])
    assert torch.equal(one[0], maps[1])
    with pytest.raises(ValueError, match="output_fmt"):
        model.forward_intermediates(images, output_fmt="NLC")


@every_small
def test_classifier_can_be_reset(name: str) -> None:
    model = make(name, num_classes=10).eval()
    images = torch.randn(2, 3, 64, 64)
    assert model(images).shape == (2, 10)
    assert isinstance(model.get_classifier(), nn.Linear)
    model.reset_classifier(0)
    assert model(images).shape == (2, model.head_hidden_size)
    assert model.num_classes == 0
    model.reset_classifier(0, "")
    assert model(images).shape == (2, model.head_hidden_size, 2, 2)
    model.reset_classifier(3, "")
    assert model(images).shape == (2, 3, 2, 2)
    model.reset_classifier(3, "catavgmax")
    assert model(images).shape == (2, 3)
    assert not any(module.training for module in model.modules())
    bare = make(name, num_classes=0, global_pool="").eval()
    assert bare(images).shape == (2, bare.head_hidden_size, 2, 2)


@every_small
def test_pruning(name: str) -> None:
    model = make(name).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(images, intermediates_only=True)[1]
    assert model.prune_intermediate_layers([1]) == [1]
    assert len(model.stages) == 2
    assert model.num_features == expected.shape[1]
    assert torch.equal(model.forward_intermediates(images, indices=[1], intermediates_only=True)[0], expected)
    with pytest.raises(ValueError, match=r"pruned.*global_pool"):
        model.reset_classifier(10)


@every_small
def test_a_pruned_network_can_have_a_classifier(name: str) -> None:
    model = make(name, drop_rate=0.5).double().eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert model.prune_intermediate_layers([1]) == [1]
    features = model.forward_features(images)
    model.reset_classifier(0, "avg")
    assert torch.equal(model(images), features.mean((2, 3)))
    model.reset_classifier(7, "catavgmax")
    assert model(images).shape == (2, model.num_classes) == (2, 7)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
    assert model.head.drop.p == 0.5
    assert not any(module.training for module in model.modules())
    model.reset_classifier(0)
    assert torch.equal(model(images), features)


def gradients(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.zero_grad()
    out = model(images)
    out.square().mean().backward()
    return out.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


@every_small
@pytest.mark.parametrize("blocks", [None, (1, 0, 1, 0)])
def test_checkpointing_changes_nothing(name: str, blocks: tuple[int, ...] | None) -> None:
    """Neither output, nor gradients, nor the running statistics of batch norm."""
    model = make(name).train()
    twin = make(name).train()
    twin.load_state_dict(model.state_dict())
    twin.set_grad_checkpointing(blocks=blocks)
    assert [s.checkpointed_blocks for s in twin.stages] == [
        len(s.blocks) if blocks is None else b for s, b in zip(twin.stages, blocks or [0] * 4, strict=True)
    ]
    images = torch.randn(2, 3, 64, 64)
    (out, grads), (twin_out, twin_grads) = gradients(model, images), gradients(twin, images)
    torch.testing.assert_close(out, twin_out)
    assert len(grads) == len(twin_grads)
    for a, b in zip(grads, twin_grads, strict=True):
        torch.testing.assert_close(a, b)
    for (key, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=key)
    twin.set_grad_checkpointing(False)
    assert all(stage.checkpointed_blocks == 0 for stage in twin.stages)


@pytest.mark.parametrize("name", ALL)
def test_no_weight_decay(name: str) -> None:
    model = make(name, device="meta")
    marked = model.no_weight_decay()
    scans = sum(len(stage.blocks) for stage in model.stages[:3])
    assert len(marked) == 2 * scans
    assert marked <= {key for key, _ in model.named_parameters()}
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    free = {id(p) for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert all(id(model.get_parameter(key)) in free for key in marked)


def test_weight_decay_as_the_original_ran() -> None:
    """Its optimizer decayed every tensor of two or more axes in the released layout, and nothing else."""
    model = make("a2mamba_base", device="meta")
    free = model.no_weight_decay(original=True)
    released = a2mamba.to_released(make("a2mamba_base"))
    expected_decayed = sum(t.numel() for key, t in released.items() if t.dim() > 1 and not key.endswith("rpb.1"))
    decayed = [key for key, _ in model.named_parameters() if key not in free]
    assert sum(model.get_parameter(key).numel() for key in decayed) == expected_decayed
    kinds = {key.split("mixer.")[-1] for key in decayed}
    assert {"ssm.A_log", "bias", "ssm.x_proj.weight", "global_attention.bias"} <= kinds
    assert any(key.endswith("scale1.weight") for key in decayed)
    assert not any(key.endswith((".D", "scale1.bias", "dt_proj.bias", "norm1.weight")) for key in decayed)


@every_small
def test_layer_groups_cover_all_parameters(name: str) -> None:
    model = make(name)
    groups = param_groups_layer_decay(model, layer_decay=0.8)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert len({group["lr_scale"] for group in groups}) > 4
    scale: dict[int, Any] = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scale[id(model.stem.conv1.weight)] < scale[id(model.stages[3].blocks[0].pos1.weight)]
    assert scale[id(model.head.fc.weight)] == 1.0


def test_drop_path_grows_linearly() -> None:
    model = make("a2mamba_nano", drop_path_rate=0.13)
    rates = [block.drop_path.drop_prob for stage in model.stages for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.13, 14))


def test_device_and_dtype_construction() -> None:
    half = a2mamba.create_model("a2mamba_test", dtype=torch.bfloat16).eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    double = a2mamba.create_model("a2mamba_test", dtype=torch.float64).eval()
    assert double(torch.randn(1, 3, 64, 64, dtype=torch.float64)).dtype == torch.float64


def test_initial_values() -> None:
    """docs/network.md, section 9, on the part of the network that decides how the scan starts."""
    model = make("a2mamba_tiny")
    for stage in model.stages[:3]:
        for block in stage.blocks:
            ssm = block.mixer.ssm
            channels = ssm.D.numel()
            assert (ssm.A_log == 0).all()
            assert (ssm.D == 1).all()
            step = nn.functional.softplus(ssm.dt_proj.bias)
            assert step.min() > 0.99e-3
            assert step.max() < 1.01e-1
            assert ssm.dt_proj.weight.abs().max() <= ssm.rank**-0.5
            assert 0.9 * channels**-0.5 < ssm.x_proj.weight.abs().max() <= channels**-0.5
            assert (block.mixer.bias == 0).all()
    weight = model.stages[3].blocks[0].mixer.qkv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert weight.abs().max() > 0.06


@pytest.mark.skipif(
    "pretrained_model_args" not in BUILDER_OPTIONS, reason="this timm stores no options of the models that it saves"
)
@pytest.mark.parametrize("form", ["safetensors", "pickle"])
def test_folders_saved_by_timm_load(form: str, tmp_path: Path) -> None:
    """``save_for_hf`` stores the options of the model too, and timm passes them back under a name of its own."""
    model = make("a2mamba_test", num_classes=5, img_size=64, in_chans=1).eval()
    save_for_hf(model, str(tmp_path), safe_serialization=form == "safetensors")
    images = torch.randn(1, 1, 64, 64)
    again = make(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(images), model(images))
    fewer = make(f"local-dir:{tmp_path}", pretrained=True, num_classes=2).eval()
    assert fewer(images).shape == (1, 2)
    assert torch.equal(fewer.forward_features(images), model.forward_features(images))
    maps = make(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    assert torch.equal(maps(images)[-1], model.forward_features(images))


def test_hubs_are_asked_by_timm_in_the_same_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("a2mamba_test", num_classes=5, img_size=64).eval()
    save_for_hf(model, str(tmp_path), safe_serialization=True)

    def download(repo_id: str, filename: str, **_: Any) -> str:
        assert repo_id == "someone/net"
        if not (tmp_path / filename).exists():
            raise EntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    again = timm.create_model("hf-hub:someone/net", pretrained=True).eval()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("name", ALL)
def test_the_two_entrances_know_the_same_options(name: str) -> None:
    assert timm.models.model_entrypoint(name)(num_classes=3, device="meta").num_classes == 3
    with pytest.raises(TypeError, match=rf"{name}: unknown option 'drop_path'; did you mean 'drop_path_rate'"):
        timm.create_model(name, drop_path=0.1, device="meta")
    with pytest.raises(TypeError, match="drop_path"):
        a2mamba.create_model(name, drop_path=0.1)  # type: ignore[call-overload]  # the mistake


@every_small
def test_models_can_be_pickled(name: str) -> None:
    model = make(name).eval()
    images = torch.randn(1, 3, 64, 64)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(images), model(images))
    assert a2mamba.to_released(again).keys() == a2mamba.to_released(model).keys()


def test_every_option_is_a_keyword() -> None:
    for make, options in (
        (a2mamba.create_model, ModelOptions),
        (a2mamba.create_segmenter, SegmenterOptions),
        (a2mamba.create_detector, DetectorOptions),
    ):
        keywords = inspect.signature(make).parameters
        assert list(keywords) == ["name", *(field.name for field in fields(options))]
        assert set(keywords) > {field.name for field in fields(BackboneOptions)}
