"""Norms on a backbone's maps, in UperNet and in detectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import a2mamba
from a2mamba.detection import detector_config
from a2mamba.layers import OutputNorms
from a2mamba.recipes import RECIPES
from support import normal

UPERNET, MASK_RCNN = "upernet_a2mamba_test", "mask_rcnn_a2mamba_test"


def segmenter(output_norms: bool) -> Any:
    torch.manual_seed(0)
    return a2mamba.create_segmenter(UPERNET, num_classes=3, output_norms=output_norms)


def detector(output_norms: bool) -> Any:
    torch.manual_seed(0)
    config = replace(detector_config(MASK_RCNN), output_norms=output_norms)
    return a2mamba.create_detector(MASK_RCNN, num_classes=3, config=config)


def test_every_position_is_normalized() -> None:
    maps = [3 * normal("a", 2, 8, 5, 7) + 2, normal("b", 2, 16, 3, 4)]
    for before, after in zip(maps, OutputNorms([8, 16])(maps), strict=True):
        expected = (before - before.mean(1, keepdim=True)) / before.var(1, correction=0, keepdim=True).sqrt()
        torch.testing.assert_close(after.detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [segmenter, detector])
def test_the_option_adds_a_weight_and_a_bias_for_each_channel(make: Any) -> None:
    without, with_norms = make(False), make(True)
    added = with_norms.state_dict().keys() - without.state_dict().keys()
    assert added == {f"output_norms.{i}.{name}" for i in range(4) for name in ("weight", "bias")}
    channels = [int(with_norms.state_dict()[f"output_norms.{i}.weight"].numel()) for i in range(4)]
    backbone = next(module for module in with_norms.modules() if hasattr(module, "stages"))
    assert channels == list(backbone.channels)
    assert without.state_dict().keys() <= with_norms.state_dict().keys()


def test_a_segmenter_gives_its_heads_normalized_maps_and_spares_the_norms_weight_decay() -> None:
    model = segmenter(True).eval()
    image = normal("image", 1, 3, 64, 64)
    plain = segmenter(False).eval().features(image)
    for before, after in zip(plain, model.features(image), strict=True):
        torch.testing.assert_close(after.mean(1), torch.zeros_like(after.mean(1)), atol=1e-5, rtol=0)
        assert not torch.allclose(before, after)
    sets = model.parameter_sets()
    norms = {name for name, _ in model.named_parameters() if name.startswith("output_norms.")}
    assert len(norms) == 8
    assert norms <= sets["norm_no_decay"]
    assert not norms & sets["decoder"]


def test_a_detector_gives_its_pyramid_normalized_maps_and_spares_the_norms_weight_decay() -> None:
    model = detector(True).eval()
    seen: list[Any] = []
    model.fpn.levels = lambda maps: seen.extend(maps)
    model.levels(normal("image", 1, 3, 64, 64))
    assert len(seen) == 4
    for each in seen:
        torch.testing.assert_close(each.mean(1), torch.zeros_like(each.mean(1)), atol=1e-5, rtol=0)
    assert {name for name in model.no_weight_decay() if name.startswith("output_norms.")} == {
        f"output_norms.{i}.{name}" for i in range(4) for name in ("weight", "bias")
    }


def test_the_norms_learn() -> None:
    model = segmenter(True)
    model(normal("image", 2, 3, 64, 64))[:, 0].square().sum().backward()
    for parameter in model.output_norms.parameters():
        assert float(parameter.grad.abs().max()) > 0


def test_segman_has_none() -> None:
    with pytest.raises(ValueError, match="output_norms=True is for UperNet; segman_v2_test reads"):
        a2mamba.create_segmenter("segman_v2_test", num_classes=3, output_norms=True)


def test_recipes_of_the_papers_protocols_have_them_and_our_own_do_not() -> None:
    for name, recipe in RECIPES.items():
        run: Any = recipe()
        if run.task == "detection":
            assert run.detector.output_norms == ("rcnn" in name), name
        if run.task == "segmentation":
            assert run.model.output_norms == (name.startswith("upernet_")), name
    drop_paths = {size: RECIPES[f"mask_rcnn_{size}_3x"]().model.drop_path_rate for size in ("small", "base", "large")}
    assert drop_paths == {"small": 0.2, "base": 0.35, "large": 0.5}
    assert RECIPES["upernet_base_ade20k"]().model.drop_path_rate == 0.35
