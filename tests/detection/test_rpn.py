"""Proposals and their losses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from a2mamba.detection import RPNConfig
from a2mamba.detection.boxes import IGNORED, NEGATIVE
from a2mamba.detection.rpn import RegionProposals

STRIDES = (4, 8, 16, 32, 64)
SIZE = (64, 96)


def network(**changes: Any) -> RegionProposals:
    torch.manual_seed(0)
    return RegionProposals(8, STRIDES, replace(RPNConfig(), **changes), clamp_both_sides=True)


def levels(batch: int = 2, size: tuple[int, int] = SIZE) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, 8, -(-size[0] // s), -(-size[1] // s)) for s in STRIDES]


def image_list(*sizes: tuple[int, int]) -> ImageList:
    height, width = (max(side) for side in zip(*sizes, strict=True))
    return ImageList(torch.zeros(len(sizes), 3, height, width), list(sizes))


def test_anchors_of_the_protocol() -> None:
    found = network().anchors(levels(), SIZE)
    assert [len(level) for level in found] == [3 * 16 * 24, 3 * 8 * 12, 3 * 4 * 6, 3 * 2 * 3, 3 * 1 * 2]
    for level, stride in zip(found, STRIDES, strict=True):
        side = level[:, 2:] - level[:, :2]
        torch.testing.assert_close(side.prod(dim=1), torch.full((len(level),), (8.0 * stride) ** 2))
        torch.testing.assert_close((side[:, 1] / side[:, 0])[:3], torch.tensor([0.5, 1, 2]))
        assert (level[0, :2] + level[0, 2:]).tolist() == [0, 0]
    # The second row of the coarsest level but one begins at y = 32.
    assert ((found[3][9, :2] + found[3][9, 2:]) / 2).tolist() == [0, 32]


def test_strides_may_follow_the_image() -> None:
    maps = [torch.zeros(1, 8, 5, 5)] * 5
    fixed = network().anchors(maps, (100, 200))
    followed = network(anchor_strides="from_image").anchors(maps, (100, 200))
    last = torch.stack([level[-1, :2] + level[-1, 2:] for level in fixed])
    torch.testing.assert_close(last, torch.tensor([[8.0 * s, 8.0 * s] for s in STRIDES]))
    last = torch.stack([level[-1, :2] + level[-1, 2:] for level in followed])
    torch.testing.assert_close(last, torch.tensor([[8.0 * 40, 8.0 * 20]] * 5))


def test_one_anchor_size_a_level_is_needed() -> None:
    with pytest.raises(ValueError, match=r"anchor_sizes=\(32\.0, 64\.0\): expected 5, one for each level"):
        network(anchor_sizes=(32.0, 64.0))


@pytest.mark.parametrize("training", [True, False])
def test_proposals(training: bool) -> None:
    rpn = network(pre_nms_train=50, pre_nms_test=40, post_nms_train=30, post_nms_test=20, nms_iou=0.5).train(training)
    sizes = ((60, 96), (64, 70))
    found, losses = rpn(levels(), image_list(*sizes))
    assert losses == {}
    for boxes, (height, width) in zip(found, sizes, strict=True):
        assert len(boxes) == (30 if training else 20)
        assert not boxes.requires_grad
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height


def test_proposals_are_the_best_decoded_anchors() -> None:
    """Without suppression and limits: every anchor, moved by its own deltas, best first."""
    rpn = network(nms_iou=1.0, pre_nms_test=10**6, post_nms_test=10**6).eval()
    for parameter in rpn.parameters():
        parameter.data *= 5
    maps = levels(1)
    (found,), _ = rpn(maps, image_list((1000, 1000)))
    logits, deltas = rpn.head(maps)
    boxes = torch.cat(rpn.anchors(maps, SIZE))
    moves = torch.cat([d.view(3, 4, -1).permute(2, 0, 1).reshape(-1, 4) for d in deltas])
    center, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    center, side = center + moves[:, :2] * side, side * moves[:, 2:].exp()
    expected = torch.cat((center - side / 2, center + side / 2), dim=1).clamp(min=0, max=1000)
    scores = torch.cat([x.view(3, -1).T.flatten() for x in logits])
    order = scores.argsort(descending=True)
    torch.testing.assert_close(found[:50], expected[order][:50], rtol=1e-4, atol=1e-3)


def test_suppression_is_within_a_level() -> None:
    rpn = network(nms_iou=0.0, post_nms_test=10**6).eval()
    (found,), _ = rpn(levels(1), image_list(SIZE))
    overlapping = (box_iou(found, found).fill_diagonal_(0) > 0).any()
    assert len(found) > 5
    assert overlapping, "boxes of different levels may overlap"
    assert len(network().eval()(levels(1), image_list(SIZE))[0][0]) > len(found)


def test_small_and_improbable_proposals_can_be_dropped() -> None:
    everything = network(nms_iou=1.0).eval()(levels(1), image_list(SIZE))[0][0]
    rpn = network(nms_iou=1.0, min_box_size=30.0).eval()
    (large,), _ = rpn(levels(1), image_list(SIZE))
    assert 0 < len(large) < len(everything)
    assert (large[:, 2:] - large[:, :2]).min() >= 30
    rpn = network(nms_iou=1.0, score_threshold=0.5).eval()
    (probable,), _ = rpn(levels(1), image_list(SIZE))
    assert 0 < len(probable) < len(everything)


def test_anchors_beyond_the_border_are_not_trained_on() -> None:
    objects = torch.tensor([[0.0, 0, 20, 20], [30, 20, 62, 52]])
    rpn = network(border_tolerance=0.0)
    anchors = torch.cat(rpn.anchors(levels(), SIZE))
    outside = (anchors[:, :2] < 0).any(1) | (anchors[:, 2] >= SIZE[1]) | (anchors[:, 3] >= SIZE[0])
    found = rpn.match(anchors, objects, SIZE)
    assert (found[outside] == IGNORED).all()
    assert (found[~outside] == NEGATIVE).any()
    assert (found == 1).any()
    everywhere = network().match(anchors, objects, SIZE)
    assert (everywhere[outside] == NEGATIVE).any()
    # The first object's best anchors lie across the border; without them, another one is the best.
    assert (everywhere[outside] == 0).any()
    assert (found == 0).sum() > 0


def test_losses_by_hand() -> None:
    """One object, all anchors sampled."""
    rpn = network(batch_per_image=10**6, smooth_l1_beta=0.0)
    maps = levels(1)
    targets = [{"boxes": torch.tensor([[10.0, 10, 42, 44]])}]
    _, losses = rpn(maps, image_list(SIZE), targets)
    logits, deltas = rpn.head(maps)
    scores = torch.cat([x.view(3, -1).T.flatten() for x in logits])
    moves = torch.cat([d.view(3, 4, -1).permute(2, 0, 1).reshape(-1, 4) for d in deltas])
    anchors = torch.cat(rpn.anchors(maps, SIZE))
    overlap = box_iou(targets[0]["boxes"], anchors)[0]
    positive = (overlap >= 0.7) | (overlap == overlap.max())
    negative = (overlap < 0.3) & ~positive
    count = int(positive.sum() + negative.sum())
    assert 0 < positive.sum() < 50
    entropy = F.softplus(-scores[positive]).sum() + F.softplus(scores[negative]).sum()
    torch.testing.assert_close(losses["loss_objectness"], entropy / count)
    box = 0.0
    for i in positive.nonzero().flatten().tolist():
        x0, y0, x1, y1 = anchors[i].tolist()
        w, h = x1 - x0, y1 - y0
        wanted = [(26 - (x0 + x1) / 2) / w, (27 - (y0 + y1) / 2) / h, math.log(32 / w), math.log(34 / h)]
        box += sum(abs(a - b) for a, b in zip(moves[i].tolist(), wanted, strict=True))
    assert losses["loss_rpn_box_reg"].item() == pytest.approx(box / count, rel=1e-4)
    smooth = network(batch_per_image=10**6, smooth_l1_beta=1 / 9)(maps, image_list(SIZE), targets)[1]
    assert smooth["loss_rpn_box_reg"] < losses["loss_rpn_box_reg"]


def test_half_of_the_sample_is_positive_at_most() -> None:
    rpn = network(batch_per_image=20, positive_fraction=0.5, positive_iou=0.3, negative_iou=0.2)
    with torch.no_grad():
        rpn.head.cls_logits.weight.zero_()
        rpn.head.cls_logits.bias.fill_(50.0)  # a positive anchor costs nothing, a negative one 50
    maps = levels(1)
    _, losses = rpn(maps, image_list(SIZE), [{"boxes": torch.tensor([[10.0, 10, 42, 44]])}])
    assert losses["loss_objectness"].item() == pytest.approx(50 * 10 / 20)


def test_without_usable_anchors_or_objects_losses_are_finite_and_connected() -> None:
    tiny = (8, 8)
    rpn = network(border_tolerance=0.0)
    for targets in ([{"boxes": torch.zeros(0, 4)}], [{"boxes": torch.tensor([[1.0, 1, 2, 2]])}]):
        rpn.zero_grad()
        _, losses = rpn(levels(1, tiny), image_list(tiny), targets)
        assert [loss.item() for loss in losses.values()] == [0, 0]
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad is not None for p in rpn.parameters())
