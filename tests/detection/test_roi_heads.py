"""Sampling, losses, refinement and detection of the second half, against cases computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from detection_scenes import target, total
from torch import Tensor, nn
from torchvision.ops import roi_align

from a2mamba.detection import DetectorConfig, RoIConfig
from a2mamba.detection.heads import BoxHead, MaskHead, pool_boxes
from a2mamba.detection.roi_heads import RoIHeads, Samples

STRIDES = (4, 8, 16, 32)
SIZE = (100, 120)
NARROW: dict[str, Any] = {"box_conv_width": 6, "box_fc_width": 16, "mask_width": 6, "mask_convs": 1}
CASCADE = replace(DetectorConfig.cascade_mask_rcnn().roi, **NARROW)


def heads(config: RoIConfig | None = None, *, classes: int = 2, **changes: Any) -> RoIHeads:
    torch.manual_seed(0)
    return RoIHeads(4, classes, STRIDES, replace(config or RoIConfig(**NARROW), **changes))


def levels(batch: int = 1) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, 4, 128 // s, 128 // s) for s in STRIDES]


class Constant(nn.Module):
    """A box head that finds the same in every box."""

    def __init__(self, logits: list[float], deltas: list[list[float]]) -> None:
        super().__init__()
        self.logits, self.deltas = torch.tensor(logits), torch.tensor(deltas)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(len(x))
        return self.logits.expand(len(x), -1), self.deltas.expand(len(x), -1, -1)


class ConstantMask(nn.Module):
    """A mask head with one logit for each class."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[:, None, None].expand(len(x), -1, 28, 28)


def stub(module: nn.Module) -> Any:
    return module


def samples(boxes: list[list[float]], labels: list[int], objects: list[int]) -> Samples:
    return Samples(
        [torch.tensor(boxes)],
        [torch.tensor(labels)],
        [torch.tensor(objects)],
        [torch.zeros(len(boxes), dtype=torch.bool)],
    )


def test_generalized_iou_loss_by_hand() -> None:
    """2 x 2 boxes one apart: 1/7 - 2/9. And a box that fits: 0. Two of four samples are negative."""
    module = heads(box_loss="giou")
    stage = module.stage_list()[0]
    scene = [{"boxes": torch.tensor([[1.0, 1, 3, 3], [10, 10, 14, 14]])}]
    chosen = samples([[0, 0, 2, 2], [9, 10, 13, 14], [5, 5, 6, 6], [50, 50, 60, 60]], [1, 0, 2, 2], [0, 1, 0, 0])
    deltas = torch.zeros(4, 2, 4)
    deltas[0, 0] = 7.0  # of the other class
    deltas[1, 0, 0] = 0.25 / 0.1  # moves the second box onto its object
    deltas[2:] = 3.0  # of negative samples
    _, loss = module._box_losses(stage, torch.zeros(4, 3), deltas, chosen, scene)
    assert loss.item() == pytest.approx((1 - (1 / 7 - 2 / 9)) / 4, rel=1e-5)


def test_l1_and_classification_losses_by_hand() -> None:
    module = heads()
    stage = module.stage_list()[0]
    scene = [{"boxes": torch.tensor([[2.0, 0, 6, 8]])}]
    chosen = samples([[0, 0, 4, 4], [5, 5, 6, 6]], [1, 2], [0, 0])
    logits = torch.tensor([[0.0, 0, 0], [0, 0, math.log(2)]])
    classification, box = module._box_losses(stage, logits, torch.zeros(2, 2, 4), chosen, scene)
    assert classification.item() == pytest.approx((math.log(3) + math.log(2)) / 2)
    # Half a width, half a height, the same width, twice the height, in units of 0.1, 0.1, 0.2, 0.2
    expected = 0.5 / 0.1 + 0.5 / 0.1 + 0 + math.log(2) / 0.2
    assert box.item() == pytest.approx(expected / 2, rel=1e-5)
    smooth = heads(smooth_l1_beta=10.0)._box_losses(stage, logits, torch.zeros(2, 2, 4), chosen, scene)[1]
    assert smooth.item() == pytest.approx((25 + 25 + (math.log(2) / 0.2) ** 2) / 20 / 2, rel=1e-5)


def test_mask_loss_by_hand() -> None:
    """Of a box that looks at the filled half and at as much beside it; the other class's logits do not count."""
    module = heads()
    stage = module.stage_list()[0]
    stage.mask_head = stub(ConstantMask([9.0, 2.0]))
    scene = target(SIZE, [[0, 0, 56, 56]], [2])
    scene["masks"][:] = 0
    scene["masks"][0, :, :28] = 1
    chosen = samples([[0, 0, 56, 56], [60, 60, 70, 70]], [1, 2], [0, 0])
    loss = module._mask_loss(stage, module._pooling(levels()), chosen, [scene])
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    nothing = samples([[60, 60, 70, 70]], [2], [0])
    assert module._mask_loss(stage, module._pooling(levels()), nothing, [scene]).item() == 0


def test_refinement_by_hand() -> None:
    """A box 10 wide at 20..30: by class 0 one to the right, by class 1 twice as wide, each around its center."""
    module = heads(CASCADE)
    first, second, _ = module.stage_list()
    boxes = [torch.tensor([[20.0, 20, 30, 30], [20, 20, 30, 30]]), torch.tensor([[20.0, 20, 30, 30]])]
    deltas = torch.tensor([[[1.0, 0, 0, 0], [0, 0, math.log(2) / 0.2, 0]]]).repeat(3, 1, 1)
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 5]])
    right, wide = [21, 20, 31, 30], [15, 20, 35, 30]

    def refine(*, labels: list[int] | None, stage: Any = first, sizes: Any = ((100, 100), (100, 100))) -> Any:
        given = None if labels is None else torch.tensor(labels)
        found = module.refine(stage, boxes, logits, deltas, sizes, given)
        return [[round(x, 3) for x in box] for image in found for box in image.tolist()]

    assert refine(labels=None) == [right, wide, wide]
    # Positive boxes go by their own class; the background, 2, by the best foreground class.
    assert refine(labels=[1, 0, 2]) == [wide, right, wide]
    assert refine(labels=[2, 2, 0]) == [right, wide, right]
    # The second stage's units are half as large.
    assert refine(labels=[0, 0, 0], stage=second) == [[20.5, 20, 30.5, 30]] * 3
    # The last image is 32 x 28.
    assert refine(labels=[0, 0, 1], sizes=((100, 100), (28, 32))) == [right, right, [15, 20, 32, 28]]
    assert [len(image) for image in module.refine(first, boxes, logits, deltas, ((9, 9), (9, 9)))] == [2, 1]


def test_sampling() -> None:
    module = heads(batch_per_image=8, positive_fraction=0.25)
    stage = module.stage_list()[0]
    objects = torch.tensor([[10.0, 10, 30, 30], [50, 50, 90, 90]])
    near = objects[1] + torch.arange(5)[:, None]
    far = torch.tensor([[0.0, 60, 20, 80]]).repeat(20, 1)
    scene = {"boxes": objects, "labels": torch.tensor([2, 1])}
    found = module.sample(stage, [torch.cat((far, near))], [scene])
    labels = found.labels[0]
    assert (labels < 2).sum() == 2
    assert (labels == 2).sum() == 6
    everything = heads(batch_per_image=1000, positive_fraction=0.5).sample(stage, [torch.cat((far, near))], [scene])
    assert everything.labels[0].tolist() == [2] * 20 + [0] * 5 + [1, 0]
    assert everything.objects[0].tolist() == [0] * 20 + [1] * 5 + [0, 1]
    assert everything.injected[0].tolist() == [False] * 25 + [True] * 2
    without = heads(batch_per_image=1000, positive_fraction=0.5, add_ground_truth=False)
    assert len(without.sample(stage, [far], [scene]).labels[0]) == 20


def test_sampling_without_objects_or_proposals() -> None:
    module = heads()
    stage = module.stage_list()[0]
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    found = module.sample(stage, [torch.rand(3, 4), torch.zeros(0, 4)], [empty, empty])
    assert [labels.tolist() for labels in found.labels] == [[2, 2, 2], []]


def test_low_quality_matches_above_the_threshold() -> None:
    """A proposal that is the best of a second object learns that one, though it overlaps the first one more."""
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 16]])
    scene = {"boxes": objects, "labels": torch.tensor([1, 2])}
    proposals = [torch.tensor([[0.0, 0, 10, 11]])]
    on = heads(add_ground_truth=False)
    off = heads(add_ground_truth=False, low_quality_matches=False)
    assert on.sample(on.stage_list()[0], proposals, [scene]).labels[0].tolist() == [1]
    assert off.sample(off.stage_list()[0], proposals, [scene]).labels[0].tolist() == [0]


def test_stages_have_their_thresholds_units_and_weights() -> None:
    module = heads(CASCADE)
    assert [stage.iou_threshold for stage in module.stage_list()] == [0.5, 0.6, 0.7]
    weights = [tuple(round(w, 2) for w in stage.coder.weights) for stage in module.stage_list()]
    assert weights == [(10, 10, 5, 5), (20, 20, 10, 10), (30.3, 30.3, 14.93, 14.93)]
    # IoU 9/15 = 0.6 exactly is positive in the second stage, and not in the third.
    scene = {"boxes": torch.tensor([[0.0, 0, 12, 10]]), "labels": torch.tensor([1])}
    proposals = [torch.tensor([[3.0, 0, 15, 10], [2, 0, 14, 10]])]  # IoU 9/15, 10/14
    found = [module.sample(stage, proposals, [scene]).labels[0].tolist() for stage in module.stage_list()]
    assert found == [[0, 0, 0], [0, 0, 0], [2, 0, 0]]


def test_a_cascade_trains_each_stage_on_the_boxes_of_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    module = heads(CASCADE, batch_per_image=1000, positive_fraction=0.5)
    stages = module.stage_list()
    right = [[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    for stage in stages:
        stage.box_head = stub(Constant([1.0, 0.0, 3.0], right))
        stage.mask_head = stub(ConstantMask([0.0, 0.0]))
    scene = target(SIZE, [[20, 20, 40, 40]], [1])
    proposals = [torch.tensor([[22.0, 20, 42, 40], [70, 70, 90, 90], [100, 0, 120, 20]])]
    seen: list[list[list[float]]] = []
    original = module.sample

    def recorded(stage: Any, boxes: Any, targets: Any) -> Samples:
        found = original(stage, boxes, targets)
        seen.append([[round(x, 3) for x in box] for box in found.boxes[0].tolist()])
        return found

    monkeypatch.setattr(module, "sample", recorded)
    losses = module.losses(levels(), proposals, [SIZE], [scene])
    own = [20, 20, 40, 40]
    assert seen[0] == [[22, 20, 42, 40], [70, 70, 90, 90], [100, 0, 120, 20], own]
    # Each moved by a tenth of its width, clipped to 120; the object's own box is not moved but added anew.
    assert seen[1] == [[24, 20, 44, 40], [72, 70, 92, 90], [102, 0, 120, 20], own]
    assert seen[2] == [[25, 20, 45, 40], [73, 70, 93, 90], [102.9, 0, 120, 20], own]
    assert list(losses) == [f"loss_{kind}_stage{i}" for i in (1, 2, 3) for kind in ("classifier", "box_reg", "mask")]
    # Constant predictions: with two positive boxes of four, then one.
    positive, negative = math.log(1 + math.e**-1 + math.e**2), math.log(1 + math.e**-2 + math.e**-3)
    assert losses["loss_classifier_stage1"].item() == pytest.approx((2 * positive + 2 * negative) / 4, rel=1e-5)
    assert losses["loss_classifier_stage2"].item() == pytest.approx(0.5 * (2 * positive + 2 * negative) / 4, rel=1e-5)
    assert losses["loss_classifier_stage3"].item() == pytest.approx(0.25 * (positive + 3 * negative) / 4, rel=1e-5)
    assert losses["loss_mask_stage1"].item() == pytest.approx(math.log(2))
    assert losses["loss_mask_stage3"].item() == pytest.approx(0.25 * math.log(2))
    # Generalized IoU of boxes 20 wide that are d apart: 1 - (20 - d) / (20 + d), for the moved boxes.
    apart = [2 * d / (20 + d) for d in (4, 2)]
    assert losses["loss_box_reg_stage1"].item() == pytest.approx(10 * sum(apart) / 4, rel=1e-4)


@pytest.mark.parametrize("refine_with", ["assigned", "predicted"])
def test_positive_boxes_of_a_cascade_go_by_their_object_or_by_the_prediction(
    refine_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = heads(CASCADE, refine_with=refine_with)
    for stage in module.stage_list():
        stage.box_head = stub(Constant([5.0, 0.0, 0.0], [[1.0, 0, 0, 0], [-1, 0, 0, 0]]))
    seen: list[Tensor] = []
    original = module.sample

    def recorded(stage: Any, boxes: Any, targets: Any) -> Samples:
        seen.append(boxes[0])
        return original(stage, boxes, targets)

    monkeypatch.setattr(module, "sample", recorded)
    scene = target(SIZE, [[20, 20, 40, 40]], [2])
    module.losses(levels(), [torch.tensor([[22.0, 20, 42, 40], [70, 70, 90, 90]])], [SIZE], [scene])
    by_object, by_prediction = [20.0, 20, 40, 40], [24.0, 20, 44, 40]
    expected = by_object if refine_with == "assigned" else by_prediction
    torch.testing.assert_close(seen[1], torch.tensor([expected, [72, 70, 92, 90]]))


def test_a_cascade_detects_with_mean_logits_mean_masks_and_the_last_boxes() -> None:
    module = heads(CASCADE, score_threshold=0.1).eval()
    all_logits = ([0.0, 3.0, 0.0], [0.0, 0.0, 3.0], [0.0, 3.0, 0.0])
    all_masks = ([9.0, 0.0], [9.0, 2.0], [9.0, -4.0])
    for stage, logits, mask in zip(module.stage_list(), all_logits, all_masks, strict=True):
        stage.box_head = stub(Constant(logits, [[0.0, 0, 0, 0], [1.0, 0, 0, 0]]))
        stage.mask_head = stub(ConstantMask(mask))
    (found,) = module.detect(levels(), [torch.tensor([[20.0, 20, 40, 40]])], [SIZE])
    total_weight = 1 + math.e**2 + math.e
    assert found["labels"].tolist() == [2]
    assert found["scores"].item() == pytest.approx(math.e**2 / total_weight, rel=1e-5)
    # Class 1 moves by 0.1 of the width, then 0.05, then 0.033; in the second stage it is a tie of classes 0 and 1.
    moved = 2 + 0 + 0.033 * 20
    torch.testing.assert_close(found["boxes"], torch.tensor([[20 + moved, 20, 40 + moved, 40]]))
    mean = sum(1 / (1 + math.exp(-x)) for x in (0.0, 2.0, -4.0)) / 3
    torch.testing.assert_close(found["masks"], torch.full((1, 1, 28, 28), mean))


def test_detections_are_ranked_and_suppressed_within_a_class() -> None:
    module = heads(score_threshold=0.2, detections_per_image=3).eval()
    boxes = torch.tensor([[10.0, 10, 30, 30], [11, 10, 31, 30], [60, 60, 80, 80], [0, 90, 130, 110]])
    scores = torch.tensor([[0.5, 0.4], [0.6, 0.1], [0.15, 0.3], [0.1, 0.8]])
    found = module._select(scores, boxes[:, None].repeat(1, 2, 1), SIZE)
    assert found["labels"].tolist() == [2, 1, 2]
    torch.testing.assert_close(found["scores"], torch.tensor([0.8, 0.6, 0.4]))
    assert found["boxes"].tolist() == [[0, 90, 120, 100], [11, 10, 31, 30], [10, 10, 30, 30]]
    large = heads(score_threshold=0.2, min_box_size=15.0)._select(scores, boxes[:, None].repeat(1, 2, 1), SIZE)
    assert large["scores"].tolist() == pytest.approx([0.6, 0.4, 0.3])


def test_pooling_reads_each_box_from_its_level() -> None:
    maps = [torch.full((2, 1, 512 // s, 512 // s), float(s)) for s in STRIDES]
    maps[1][1] = 80.0
    boxes = [torch.tensor([[0.0, 0, 500, 500], [0, 0, 20, 20]]), torch.tensor([[100.0, 100, 250, 250]])]
    found = pool_boxes(maps, boxes, STRIDES, size=7, sampling_ratio=0, aligned=True)
    assert found.shape == (3, 1, 7, 7)
    assert found[:, 0, 3, 3].tolist() == [32, 4, 80]


@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(0, True), (2, False)])
def test_pooling_is_roi_align(sampling_ratio: int, aligned: bool) -> None:
    maps = levels()
    box = torch.tensor([[13.0, 17, 70, 90]])
    found = pool_boxes(maps, [box], STRIDES, size=7, sampling_ratio=sampling_ratio, aligned=aligned)
    expected = roi_align(maps[0], [box], 7, 1 / 4, sampling_ratio, aligned)
    assert torch.equal(found, expected)
    other = pool_boxes(maps, [box], STRIDES, size=7, sampling_ratio=sampling_ratio, aligned=not aligned)
    assert not torch.allclose(found, other)


def test_heads_have_the_layers_of_their_config() -> None:
    plain = BoxHead(4, 3, RoIConfig(box_fc_width=8))
    assert list(plain.state_dict()) == [
        *(f"fcs.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")),
        *(f"{layer}.{kind}" for layer in ("class_logits", "box_deltas") for kind in ("weight", "bias")),
    ]
    convolved = BoxHead(4, 3, CASCADE)
    assert [tuple(p.shape) for p in convolved.convs.parameters()] == [(6, 4, 3, 3)] + [(6, 6, 3, 3)] * 3
    assert "convs.0.bias" not in convolved.state_dict()
    logits, deltas = convolved(torch.rand(5, 4, 7, 7))
    assert (logits.shape, deltas.shape) == ((5, 4), (5, 3, 4))
    assert MaskHead(4, 3, RoIConfig(**NARROW))(torch.rand(5, 4, 14, 14)).shape == (5, 3, 28, 28)


def test_no_boxes_pass_through_every_head() -> None:
    for config in (RoIConfig(**NARROW), CASCADE):
        module = heads(config).train()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        empty["masks"] = torch.zeros(0, *SIZE, dtype=torch.uint8)
        losses = module.losses(levels(), [torch.zeros(0, 4)], [SIZE], [empty])
        assert total(losses).item() == 0
        total(losses).backward()
        assert all(p.grad is not None and (p.grad == 0).all() for p in module.parameters())
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        (found,) = module.eval().detect(levels(), [torch.zeros(0, 4)], [SIZE])
        assert found["masks"].shape == (0, 1, 28, 28)
