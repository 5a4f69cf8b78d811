"""Detectors by name, their numbers, and what they cost."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from detection_scenes import SmallBackbone

import a2mamba
from a2mamba.analysis import flops
from a2mamba.backbone import Pyramid, to_released
from a2mamba.detection import (
    Detector,
    DetectorConfig,
    DummyForward,
    RoIConfig,
    RPNConfig,
    create_detector,
    detector_config,
    list_detectors,
    parameters_by_module,
)
from a2mamba.engine import parameter_groups
from a2mamba.recipes.overrides import apply_overrides, from_json, to_json

SIZES = ("nano", "tiny", "small", "base", "large", "large_paper", "test")


def test_names() -> None:
    expected = [f"{kind}_a2mamba_{size}" for kind in ("mask_rcnn", "cascade_mask_rcnn") for size in SIZES]
    assert list_detectors() == expected == a2mamba.list_detectors()
    assert a2mamba.create_detector is create_detector


@pytest.mark.parametrize("name", list_detectors())
def test_every_name_makes_its_detector(name: str) -> None:
    model = create_detector(name, num_classes=7, device="meta")
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    kind, _, size = name.partition("_a2mamba_")
    assert model.config.roi.stages == (3 if kind == "cascade_mask_rcnn" else 1)
    backbone = a2mamba.create_model(f"a2mamba_{size}", device="meta")
    assert isinstance(model.backbone, Pyramid)
    assert model.backbone.channels == backbone.channels
    assert model.backbone.head is None
    assert model.roi_heads.stage_list()[0].box_head.class_logits.out_features == 8


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mask_rcnn_a2mamba_smal", "did you mean 'mask_rcnn_a2mamba_small'?"),
        ("cascade_a2mamba_base", "did you mean 'cascade_mask_rcnn_a2mamba_base'?"),
        ("yolo", "known: mask_rcnn_a2mamba_nano"),
    ],
)
def test_unknown_names(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"unknown detector '{name}'; {hint}".replace("?", r"\?")):
        create_detector(name, num_classes=1)


# Of the facts behind Tables IV and V: 80 classes, 800 x 1280, 1000 and 100 dummy boxes.
COSTS = {
    "mask_rcnn_a2mamba_small": (49.29, 283.4),
    "mask_rcnn_a2mamba_base": (69.79, 410.0),
    "mask_rcnn_a2mamba_large_paper": (113.49, 552.0),
    "cascade_mask_rcnn_a2mamba_small": (87.12, 761.7),
    "cascade_mask_rcnn_a2mamba_base": (107.63, 888.3),
    "cascade_mask_rcnn_a2mamba_large_paper": (151.33, 1030.2),
}


@pytest.mark.parametrize(
    "name", [n if n.endswith("_small") else pytest.param(n, marks=pytest.mark.slow) for n in COSTS]
)
def test_costs_of_the_paper(name: str) -> None:
    model = create_detector(name, num_classes=80, device="meta")
    parameters, operations = COSTS[name]
    by_module = parameters_by_module(model)
    assert sum(by_module.values()) == sum(p.numel() for p in model.parameters())
    assert sum(by_module.values()) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert flops(DummyForward(model), (3, 800, 1280)) / 1e9 == pytest.approx(operations, rel=0.001)


def test_parameters_of_the_parts() -> None:
    """The piecewise counts behind the same tables."""
    plain = parameters_by_module(create_detector("mask_rcnn_a2mamba_small", num_classes=80, device="meta"))
    assert plain["fpn"] == 2_623_488
    assert plain["rpn"] == 593_935
    assert plain["box_heads"] == 14_306_705
    assert plain["mask_heads"] == 2_643_280
    cascade = parameters_by_module(
        create_detector("cascade_mask_rcnn_a2mamba_large_paper", num_classes=80, device="meta")
    )
    assert cascade["fpn"] == 2_762_752
    assert cascade["box_heads"] == 3 * 15_618_449
    assert cascade["mask_heads"] == 3 * 2_643_280


def test_images_of_other_channels() -> None:
    config = replace(detector_config("mask_rcnn_a2mamba_test"), image_mean=(0.5,), image_std=(0.2,))
    model = create_detector("mask_rcnn_a2mamba_test", num_classes=2, in_chans=1, config=config).eval()
    with torch.inference_mode():
        assert len(model([torch.rand(1, 64, 64)])) == 1
    with pytest.raises(ValueError, match=r"in_chans=1, and image_mean=\(0.485, .* a mean and a std for each channel"):
        create_detector("mask_rcnn_a2mamba_test", num_classes=2, in_chans=1, device="meta")


def test_the_dummy_forward_by_hand() -> None:
    """Twice the boxes, twice the heads' work; and the work of a narrow box head."""
    model = create_detector("mask_rcnn_a2mamba_test", num_classes=3, device="meta")
    size = (3, 64, 64)
    none, boxes, masks = (flops(DummyForward(model, boxes=b, masks=m), size) for b, m in ((0, 0), (5, 0), (0, 5)))
    box = 16 * 49 * 32 + 32 * 32 + 32 * 4 + 32 * 12
    assert boxes - none == 5 * box
    mask = 14 * 14 * (9 * 16 * 16 + 4 * 16 * 16) + 28 * 28 * 16 * 3
    assert masks - none == 5 * mask
    alone = create_detector("mask_rcnn_a2mamba_test", num_classes=3, device="meta", masks=False)
    assert flops(DummyForward(alone, boxes=5, masks=5), size) == boxes
    assert parameters_by_module(alone)["mask_heads"] == 0


def saved(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("released", [True, False])
def test_the_backbone_can_be_loaded(tmp_path: Path, released: bool) -> None:
    classifier = a2mamba.create_model("a2mamba_test", num_classes=5)
    state = to_released(classifier) if released else classifier.state_dict()
    path = saved(tmp_path, state)
    model = create_detector("mask_rcnn_a2mamba_test", num_classes=3, backbone_checkpoint=path)
    loaded = model.backbone.state_dict()
    assert len(loaded) > 50
    for name, value in loaded.items():
        assert torch.equal(value, classifier.state_dict()[name]), name


def test_a_detectors_backbone_can_be_loaded_elsewhere(tmp_path: Path) -> None:
    model = create_detector("mask_rcnn_a2mamba_test", num_classes=3)
    other = a2mamba.create_model("a2mamba_test", features_only=True)
    a2mamba.load_checkpoint(other, saved(tmp_path, model.state_dict()))
    found = dict(other.model.named_parameters())
    assert all(torch.equal(p, found[name]) for name, p in model.backbone.named_parameters())


def test_arguments_that_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        create_detector("mask_rcnn_a2mamba_test", num_classes=1, backbone_checkpoint=tmp_path, pretrained_backbone=True)


def test_arguments_reach_the_backbone() -> None:
    model = create_detector("mask_rcnn_a2mamba_test", num_classes=1, drop_path_rate=0.3, img_size=(64, 96))
    backbone: Any = model.backbone
    last = backbone.stages[-1].blocks[-1]
    assert last.drop_path.drop_prob == pytest.approx(0.3)
    assert last.mixer.global_attention.bias.shape == (4, 6, 6)


def test_config_replaces_the_names_own() -> None:
    config = detector_config("mask_rcnn_a2mamba_test").narrowed(
        fpn_width=8, box_fc_width=4, box_conv_width=6, mask_width=2
    )
    config = replace(config, roi=replace(config.roi, box_convs=2, mask_convs=3))
    model = create_detector("mask_rcnn_a2mamba_test", num_classes=1, config=config)
    stage = model.roi_heads.stage_list()[0]
    assert model.config is config
    assert [conv.out_channels for conv in stage.box_head.convs] == [6, 6]
    assert [fc.out_features for fc in stage.box_head.fcs] == [4, 4]
    assert stage.mask_head is not None
    assert [conv.out_channels for conv in stage.mask_head.convs] == [2, 2, 2]


def test_initial_values() -> None:
    torch.manual_seed(0)
    config = DetectorConfig.cascade_mask_rcnn().narrowed(fpn_width=64, box_fc_width=128)
    model = Detector(SmallBackbone(), num_classes=80, config=config)
    head = model.roi_heads.stage_list()[1].box_head
    assert head.class_logits.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.box_deltas.weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert model.rpn.head.cls_logits.weight.std().item() == pytest.approx(0.01, rel=0.15)
    assert model.rpn.head.conv[0][0].weight.std().item() == pytest.approx(0.01, rel=0.05)
    lateral = model.fpn.inner_blocks[0][0].weight  # 6 channels to 64
    xavier = math.sqrt(6 / (6 + 64))
    assert 0.98 * xavier < lateral.abs().max().item() <= xavier
    other = Detector(SmallBackbone(), num_classes=80, config=replace(config, fpn_init="kaiming"))
    lateral = other.fpn.inner_blocks[0][0].weight
    kaiming = math.sqrt(3 / 6)
    assert 0.98 * kaiming < lateral.abs().max().item() <= kaiming
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and "backbone" not in name]
    assert all((p == 0).all() for p in biases)


def test_weight_decay_of_the_protocol() -> None:
    """The released names tell which norms the original code spared."""
    model = create_detector("cascade_mask_rcnn_a2mamba_test", num_classes=3)
    spared = model.no_weight_decay()
    tensors = {p.data_ptr(): f"backbone.{name}" for name, p in model.backbone.named_parameters()}
    released = to_released(model.backbone)
    expected = {tensors[t.data_ptr()] for name, t in released.items() if "norm" in name and t.data_ptr() in tensors}
    assert spared == expected
    assert isinstance(model.backbone, Pyramid)
    blocks = sum(len(stage.blocks) for stage in model.backbone.stage_list())
    assert len(spared) == blocks * 3 * 2
    assert {name.split("blocks.")[1][2:] for name in spared} == {
        f"{norm}.{kind}" for norm in ("norm1", "norm2", "mixer.norm") for kind in ("weight", "bias")
    }
    groups = parameter_groups(model, weight_decay=0.05, no_decay=spared, vectors_decay=True)
    assert [len(group["params"]) for group in groups] == [len(list(model.parameters())) - len(spared), len(spared)]
    features = a2mamba.create_model("a2mamba_test", features_only=True)
    inner = Detector(features, num_classes=3).no_weight_decay()
    assert inner == {name.replace("backbone.", "backbone.model.") for name in spared}


def test_weight_decay_with_other_backbones() -> None:
    backbone = timm.create_model("convnext_atto", features_only=True)
    spared = Detector(backbone, num_classes=3).no_weight_decay()
    assert spared == {f"backbone.{name}" for name, _ in backbone.named_parameters() if "norm" in name}
    assert len(spared) > 10


PROTOCOLS = [
    DetectorConfig.mask_rcnn(),
    DetectorConfig.cascade_mask_rcnn(),
    DetectorConfig.torchvision_defaults(),
    detector_config("cascade_mask_rcnn_a2mamba_test"),
]


@pytest.mark.parametrize("config", PROTOCOLS)
def test_configs_can_be_written_and_read(config: DetectorConfig) -> None:
    assert from_json(DetectorConfig, to_json(config)) == config


def test_configs_can_be_overridden() -> None:
    changed = apply_overrides(DetectorConfig(), ["rpn.nms_iou=0.6", "roi.score_threshold=0.1", "min_size=600"])
    assert (changed.rpn.nms_iou, changed.roi.score_threshold, changed.min_size) == (0.6, 0.1, 600)


def test_cascade_differs_from_mask_rcnn_as_the_protocol_says() -> None:
    def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
        out: dict[str, Any] = {}
        for field in fields(config):
            value = getattr(config, field.name)
            nested = is_dataclass(value)
            out |= leaves(value, f"{field.name}.") if nested else {prefix + field.name: value}
        return out

    plain, cascade = leaves(DetectorConfig.mask_rcnn()), leaves(DetectorConfig.cascade_mask_rcnn())
    different = {name: value for name, value in cascade.items() if value != plain[name]}
    assert different == {
        "rpn.border_tolerance": 0,
        "rpn.smooth_l1_beta": 1 / 9,
        "rpn.post_nms_train": 2000,
        "roi.iou_thresholds": (0.5, 0.6, 0.7),
        "roi.delta_stds": ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
        "roi.stage_weights": (1, 0.5, 0.25),
        "roi.low_quality_matches": False,
        "roi.box_loss": "giou",
        "roi.box_loss_weight": 10,
        "roi.box_convs": 4,
        "roi.box_fcs": 1,
    }


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (DetectorConfig, {"min_size": 0}, "min_size=0: expected 1 or more"),
        (DetectorConfig, {"min_size": 900, "max_size": 800}, "max_size=800: expected at least min_size=900"),
        (DetectorConfig, {"image_std": (0.2, 0.0, 0.2)}, "image_std=.*positive stds"),
        (DetectorConfig, {"image_mean": (0.5,)}, "image_mean=.*as many of both"),
        (DetectorConfig, {"paste": "glue"}, "paste='glue': expected one of grid, box"),
        (DetectorConfig, {"fpn_init": "zeros"}, "fpn_init='zeros': expected one of xavier, kaiming"),
        (DetectorConfig, {"resize_rounding": "up"}, "resize_rounding='up'"),
        (DetectorConfig, {"fpn_width": 0}, "fpn_width=0"),
        (RPNConfig, {"anchor_sizes": ()}, r"anchor_sizes=\(\)"),
        (RPNConfig, {"aspect_ratios": (1.0, -1.0)}, "aspect_ratios=.*positive"),
        (RPNConfig, {"anchor_strides": "free"}, "anchor_strides='free'"),
        (RPNConfig, {"positive_iou": 1.5}, "positive_iou=1.5: expected 0 to 1"),
        (RPNConfig, {"negative_iou": 0.8}, "negative_iou=0.8: expected at most positive_iou=0.7"),
        (RPNConfig, {"low_quality_iou": -0.1}, "low_quality_iou=-0.1"),
        (RPNConfig, {"batch_per_image": 0}, "batch_per_image=0"),
        (RPNConfig, {"smooth_l1_beta": -1.0}, "smooth_l1_beta=-1.0"),
        (RoIConfig, {"iou_thresholds": ()}, r"iou_thresholds=\(\): expected one number"),
        (RoIConfig, {"iou_thresholds": (0.5, 0.6)}, r"delta_stds=.*expected 2, one for each of iou_thresholds="),
        (RoIConfig, {"delta_stds": ((0.1, 0.1, 0.2, 0.0),)}, "delta_stds=.*four positive numbers"),
        (RoIConfig, {"stage_weights": (-1.0,)}, "stage_weights="),
        (RoIConfig, {"refine_with": "luck"}, "refine_with='luck'"),
        (RoIConfig, {"box_loss": "ciou"}, "box_loss='ciou': expected one of smooth_l1, giou"),
        (RoIConfig, {"mask_target_threshold": 2.0}, "mask_target_threshold=2.0"),
        (RoIConfig, {"box_fcs": 0}, "box_fcs=0: expected 1 or more"),
        (RoIConfig, {"sampling_ratio": -1}, "sampling_ratio=-1"),
        (RoIConfig, {"score_threshold": 1.1}, "score_threshold=1.1"),
    ],
)
def test_values_out_of_range(cls: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**values)
