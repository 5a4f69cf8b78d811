"""With torchvision's defaults selected, ours is torchvision's Mask R-CNN: same losses, same detections."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from detection_scenes import SmallBackbone, images, target
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from a2mamba.detection import Detector, DetectorConfig, from_torchvision

CLASSES = 4
WIDTH = 16
FC_WIDTH = 32


class TorchvisionBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = SmallBackbone()
        channels = [int(info["num_chs"]) for info in self.body.feature_info]
        self.fpn = FeaturePyramidNetwork(channels, WIDTH, extra_blocks=LastLevelMaxPool())
        self.out_channels = WIDTH

    def forward(self, x: Tensor) -> Any:
        return self.fpn(OrderedDict((str(i), level) for i, level in enumerate(self.body(x))))


def pair(*, sampled: int | None = None) -> tuple[MaskRCNN, Detector]:
    """torchvision's and ours with the same weights; ``sampled``: RoIs and anchors an image, both halves of them."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"min_size": 160, "max_size": 200}
    config = replace(DetectorConfig.torchvision_defaults(), **options)
    if sampled is not None:
        options |= {"rpn_batch_size_per_image": sampled, "box_batch_size_per_image": sampled}
        config = replace(
            config,
            rpn=replace(config.rpn, batch_per_image=sampled),
            roi=replace(config.roi, batch_per_image=sampled),
        )
    config = config.narrowed(fpn_width=WIDTH, box_fc_width=FC_WIDTH)
    theirs = MaskRCNN(
        TorchvisionBackbone(),
        box_head=TwoMLPHead(WIDTH * 49, FC_WIDTH),
        box_predictor=FastRCNNPredictor(FC_WIDTH, CLASSES + 1),
        mask_head=MaskRCNNHeads(WIDTH, [WIDTH] * 4, dilation=1),
        mask_predictor=MaskRCNNPredictor(WIDTH, WIDTH, CLASSES + 1),
        **options,
    )
    ours = Detector(SmallBackbone(), num_classes=CLASSES, config=config)
    # Scores far from each other, and boxes that move: rounding shall decide nothing, and every part shall matter.
    for name, parameter in theirs.named_parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        if name.endswith("bbox_pred.weight"):
            parameter.data *= 0.3
    found = ours.load_state_dict(from_torchvision(theirs.state_dict()), strict=True)
    assert (found.missing_keys, found.unexpected_keys) == ([], [])
    return theirs, ours


SIZES = ((100, 150), (170, 90))


def scene() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    torch.manual_seed(1)
    return images(*SIZES), [
        target(SIZES[0], [[10, 12, 60, 55], [50, 20, 140, 90], [100, 70, 118, 92]], [1, 4, 2]),
        target(SIZES[1], [[5, 100, 80, 168], [20, 30, 44, 49]], [3, 2]),
    ]


# All anchors and proposals are sampled, so that no random choice differs.
@pytest.mark.parametrize("empty", [False, True])
def test_losses(empty: bool) -> None:
    theirs, ours = pair(sampled=10**6)
    images, targets = scene()
    if empty:
        targets[0] = target(SIZES[0], [], [])
    expected, found = theirs(images, targets), ours(images, targets)
    assert expected.keys() == found.keys()
    for name, loss in expected.items():
        assert loss > 0
        torch.testing.assert_close(found[name], loss, rtol=1e-4, atol=1e-4)


def test_gradients() -> None:
    theirs, ours = pair(sampled=10**6)
    for model in (theirs, ours):
        torch.stack(list(model(*scene()).values())).sum().backward()
    expected = from_torchvision({n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        # Of a bias before batch norm there is only rounding.
        atol = max(1e-5, 1e-3 * float(expected[name].abs().max()))
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=atol)


def test_losses_with_the_same_random_choices() -> None:
    """torchvision draws a number for each image's size first; then both choose by the same permutations."""
    theirs, ours = pair()
    images, targets = scene()
    torch.manual_seed(5)
    expected = theirs(images, targets)
    torch.manual_seed(5)
    for _ in images:
        torch.empty(1).uniform_()
    found = ours(images, targets)
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, rtol=1e-4, atol=1e-4)


def test_detections() -> None:
    theirs, ours = pair()
    images, _ = scene()
    with torch.no_grad():
        expected, found = theirs.eval()(images), ours.eval()(images)
    for a, b, size in zip(expected, found, SIZES, strict=True):
        assert a.keys() == b.keys()
        assert len(a["boxes"]) > 20
        assert len(a["labels"].unique()) > 2
        assert torch.equal(a["labels"], b["labels"])
        assert b["masks"].shape == (len(a["boxes"]), 1, *size)
        for name in ("boxes", "scores", "masks"):
            torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-4)


def test_the_protocol_differs() -> None:
    """The comparison would be worth nothing if the fields that it sets changed nothing."""
    theirs, ours = pair(sampled=10**6)
    images, targets = scene()
    expected = theirs(images, targets)
    config = replace(DetectorConfig.mask_rcnn(), min_size=160, max_size=200, resize_in_training=True)
    rpn, roi = replace(config.rpn, batch_per_image=10**6), replace(config.roi, batch_per_image=10**6)
    config = replace(config, rpn=rpn, roi=roi).narrowed(fpn_width=WIDTH, box_fc_width=FC_WIDTH)
    protocol = Detector(SmallBackbone(), num_classes=CLASSES, config=config)
    protocol.load_state_dict(ours.state_dict())
    found = protocol(images, targets)
    for name, loss in expected.items():
        assert (found[name] - loss).abs() > 1e-3 * loss, name


def test_rounded_anchors_are_torchvisions() -> None:
    _, ours = pair()
    maps = [torch.zeros(1, 1, side, 2 * side) for side in (32, 16, 8, 4, 2)]
    generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    (expected,) = generator(ImageList(torch.zeros(1, 3, 128, 256), [(128, 256)]), maps)
    assert torch.equal(torch.cat(ours.rpn.anchors(maps, (128, 256))), expected)


def test_names_of_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"roi_heads\.keypoint_head\.0\.weight: not a name of torchvision's MaskRCNN"):
        from_torchvision({"roi_heads.keypoint_head.0.weight": torch.zeros(1)})
