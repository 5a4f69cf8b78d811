"""Grad-CAM, against a computation by hand and against another implementation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.explain import ClassScore, class_score, grad_cam
from support import normal

from .networks import classifier, detector, segmenter

IMAGE = normal("explained", 1, 3, 64, 96)


def test_a_linear_head_by_hand() -> None:
    """With the mean of a map and a weight a channel, the gradient is that weight over the number of positions."""
    model = classifier()
    with torch.no_grad():
        maps = model.forward_features(IMAGE)
    weight = normal("weight", maps.shape[1])

    def linear(network: Any, batch: Tensor, class_index: int | None) -> ClassScore:
        return ClassScore(network.forward_features(batch).mean((2, 3))[0] @ weight, 0)

    by_hand = torch.einsum("c,chw->hw", weight, maps[0]) / maps[0, 0].numel()
    expected = F.interpolate(by_hand.clamp(min=0)[None, None], (64, 96), mode="bilinear", align_corners=False)
    assert float(expected.max()) > 0
    torch.testing.assert_close(grad_cam(model, IMAGE, score=linear).heat, expected[0, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("stage", [1, 3])
def test_another_implementation(stage: int) -> None:
    library = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed; it is only compared with")
    model = classifier()
    with library.GradCAM(model, [model.stage_list()[stage]]) as other:
        expected = torch.from_numpy(other(IMAGE, [lambda logits: logits[2]]))[0]
    found = grad_cam(model, IMAGE, class_index=2, stage=stage).heat
    low, high = found.min(), found.max()
    # The library stretches the coarse map from 0 to 1 before and after it is resized, which we leave to the drawing.
    torch.testing.assert_close((found - low) / (high - low), expected, rtol=0.02, atol=0.02)


def test_the_most_probable_class_is_the_default() -> None:
    model = classifier()
    best = int(model(IMAGE).argmax())
    found = grad_cam(model, IMAGE)
    assert found.class_index == best
    assert torch.equal(found.heat, grad_cam(model, IMAGE, class_index=best).heat)
    assert not torch.equal(found.heat, grad_cam(model, IMAGE, class_index=(best + 1) % 3).heat)


def test_segmenters_are_asked_about_the_pixels_of_a_class() -> None:
    model: Any = segmenter()
    model.decoder.classifier.conv.bias.data[3] = -1e6
    with torch.no_grad():
        logits = model(IMAGE)
    seen = logits.argmax(1)
    counts = seen.flatten().bincount(minlength=4)
    most = int(counts.argmax())
    score = class_score(model, IMAGE, None)
    assert score.class_index == most
    assert score.score.item() == pytest.approx(float(logits[:, most][seen == most].sum()), rel=1e-4)
    found = grad_cam(model, IMAGE)
    assert found.heat.shape == (64, 96)
    assert found.class_index == most
    with pytest.raises(ValueError, match="no pixel of this image is of class 3"):
        grad_cam(model, IMAGE, class_index=3)


def test_detectors_are_asked_about_their_objects() -> None:
    model: Any = detector()
    model.roi_heads.config = replace(model.roi_heads.config, score_threshold=0.0)
    found = grad_cam(model, IMAGE)
    assert found.heat.shape == (64, 96)
    assert 0 <= found.class_index < 4
    assert class_score(model, IMAGE, found.class_index).class_index == found.class_index


def test_positions_of_a_detector_have_weights_of_their_own() -> None:
    model: Any = detector()
    model.roi_heads.config = replace(model.roi_heads.config, score_threshold=0.0)
    kept: list[Tensor] = []
    hook = model.backbone.stage_list()[1].register_forward_hook(lambda module, inputs, output: kept.append(output))
    score, index = class_score(model, IMAGE.clone().requires_grad_(), None)
    hook.remove()
    (gradient,) = torch.autograd.grad(score, kept[0])
    by_hand = (gradient * kept[0].detach()).sum(1, keepdim=True).clamp(min=0)
    expected = F.interpolate(by_hand, (64, 96), mode="bilinear", align_corners=False)[0, 0]
    assert float(expected.max()) > 0
    torch.testing.assert_close(grad_cam(model, IMAGE, class_index=None, stage=1).heat, expected)
    assert class_score(model, IMAGE, None).class_index == index


@pytest.mark.parametrize(("make", "index"), [(classifier, 3), (segmenter, 4), (detector, -1)])
def test_a_class_that_does_not_exist_is_named(make: Callable[[], nn.Module], index: int) -> None:
    with pytest.raises(ValueError, match=f"class {index}: the .* has classes 0 to"):
        grad_cam(make(), IMAGE, class_index=index)


def test_a_stage_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match="stage=4: the backbone has stages 0 to 3"):
        grad_cam(classifier(), IMAGE, stage=4)


def test_parameters_get_no_gradients_and_inference_mode_is_no_obstacle() -> None:
    model = classifier()
    with torch.inference_mode():
        found = grad_cam(model, IMAGE)
    assert found.heat.max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
