"""Deltas, anchors, matching and levels, against cases computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from a2mamba.detection import boxes as module
from a2mamba.detection.boxes import (
    DELTA_LIMIT,
    IGNORED,
    NEGATIVE,
    BoxCoder,
    anchor_grid,
    base_anchors,
    box_levels,
    inside,
    match,
)

CPU = torch.device("cpu")


def test_decoding() -> None:
    """A box 20 wide and 10 high, moved by 0.5 w and -1 h, twice as wide and half as high."""
    coder = BoxCoder((0.1, 0.1, 0.2, 0.2), clamp_both_sides=True)
    deltas = torch.tensor([[[0.5 / 0.1, -1 / 0.1, math.log(2) / 0.2, -math.log(2) / 0.2]]])
    reference = torch.tensor([[10.0, 20.0, 30.0, 30.0]])
    expected = torch.tensor([[[10.0, 12.5, 50.0, 17.5]]])
    torch.testing.assert_close(coder.decode_boxes(deltas, reference), expected)
    torch.testing.assert_close(coder.encode_boxes(expected[0], reference), deltas[0])


@pytest.mark.parametrize("both", [True, False])
def test_sizes_are_limited(both: bool) -> None:
    coder = BoxCoder((0.1, 0.1, 0.2, 0.05), clamp_both_sides=both)
    deltas = torch.tensor([[[0.0, 0.0, 100.0, -400.0], [0.0, 0.0, -100.0, 400.0]]])
    found = coder.decode_boxes(deltas, torch.tensor([[-8.0, -8.0, 8.0, 8.0]]))[0]
    width, height = (found[:, 2:] - found[:, :2]).unbind(1)
    assert math.exp(DELTA_LIMIT) == pytest.approx(62.5)
    low = 16 / 62.5
    expected = [[1000.0, low], [low, 1000.0]] if both else [[1000.0, 0.0], [0.0, 1000.0]]
    torch.testing.assert_close(width, torch.tensor([e[0] for e in expected]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(height, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-4)


def test_each_class_has_its_own_deltas() -> None:
    coder = BoxCoder((1, 1, 1, 1), clamp_both_sides=True)
    deltas = torch.tensor([[[0.5, 0, 0, 0], [0, 0.25, 0, 0]], [[0, 0, 0, 0], [1, 1, 0, 0]]])
    found = coder.decode_boxes(deltas, torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]]))
    expected = [[[2, 0, 6, 4], [0, 1, 4, 5]], [[0, 0, 2, 2], [2, 2, 4, 4]]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_anchors_are_not_rounded() -> None:
    wide, square, tall = base_anchors(32, (0.5, 1.0, 2.0), rounded=False)
    short, long = 32 / math.sqrt(2) / 2, 32 * math.sqrt(2) / 2
    assert wide == pytest.approx((-long, -short, long, short))
    assert square == pytest.approx((-16, -16, 16, 16))
    assert tall == pytest.approx((-short, -long, short, long))
    assert base_anchors(32, (0.5,), rounded=True) == [(-23.0, -11.0, 23.0, 11.0)]


def test_anchors_stand_on_the_grid_from_zero() -> None:
    """Rows first, then columns, then the anchors of a position."""
    base = [(-1.0, -2.0, 1.0, 2.0), (-3.0, -1.0, 3.0, 1.0)]
    found = anchor_grid(base, (2, 3), (8, 4), CPU)
    assert found.shape == (12, 4)
    assert found[0].tolist() == [-1, -2, 1, 2]
    assert found[3].tolist() == [4 - 3, -1, 4 + 3, 1]
    assert found[10].tolist() == [8 - 1, 8 - 2, 8 + 1, 8 + 2]


def test_inside() -> None:
    boxes = torch.tensor([[0.0, 0, 9.5, 4.5], [-0.5, 0, 3, 3], [0, 0, 10, 4], [0, 1, 5, 5.5]])
    assert inside(boxes, (5, 10), 0).tolist() == [True, False, False, False]
    assert inside(boxes, (5, 10), 1).tolist() == [True, True, True, True]


# Two objects of 10 x 10, the second one 30 to the right.
OBJECTS = torch.tensor([[0.0, 0, 10, 10], [30, 0, 40, 10]])


def shifted(*shifts: float) -> torch.Tensor:
    """Boxes of 10 x 10; one that is d beside an object has IoU (10 - d) / (10 + d) with it."""
    return torch.tensor([[x, 0, x + 10, 10] for x in shifts])


def test_thresholds() -> None:
    # IoU 9/11 = 0.818, 7/13 = 0.538, 5/15 = 0.333, 2/18 = 0.111, 0
    boxes = shifted(1, 3, 5, 8, 15, 29)
    found = match(OBJECTS, boxes, positive_iou=0.7, negative_iou=0.3)
    assert found.tolist() == [0, IGNORED, IGNORED, NEGATIVE, NEGATIVE, 1]
    found = match(OBJECTS, boxes, positive_iou=0.5, negative_iou=0.5)
    assert found.tolist() == [0, 0, NEGATIVE, NEGATIVE, NEGATIVE, 1]


def test_the_best_box_of_an_object_is_positive_above_the_floor_only() -> None:
    # The best for the first object has 0.538; the best for the second 0.25 (d = 6).
    boxes = shifted(3, 5, 24)
    options: dict[str, Any] = {"positive_iou": 0.7, "negative_iou": 0.3}
    assert match(OBJECTS, boxes, **options).tolist() == [IGNORED, IGNORED, NEGATIVE]
    assert match(OBJECTS, boxes, low_quality_iou=0.3, **options).tolist() == [0, IGNORED, NEGATIVE]
    assert match(OBJECTS, boxes, low_quality_iou=0.0, **options).tolist() == [0, IGNORED, 1]
    # All that tie are; IoU 0.538 on both sides.
    assert match(OBJECTS[:1], shifted(3, -3, 4), low_quality_iou=0.3, **options).tolist() == [0, 0, IGNORED]


def test_a_claimed_box_learns_the_object_that_claims_it_or_its_own_best() -> None:
    """The only box near both objects overlaps the first one more, and is the best that the second one has."""
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 16]])
    boxes = torch.tensor([[0.0, 0, 10, 11], [50, 50, 60, 60]])
    overlaps = box_iou(objects, boxes)
    assert overlaps[0, 0] > 0.9 > overlaps[1, 0] > 0.6
    options: dict[str, Any] = {"positive_iou": 0.7, "negative_iou": 0.3, "low_quality_iou": 0.3}
    assert match(objects, boxes, **options).tolist() == [1, NEGATIVE]
    assert match(objects, boxes, low_quality_overwrites=False, **options).tolist() == [0, NEGATIVE]
    # Of several objects that claim a box, the last one has it.
    assert match(objects.flip(0), boxes, **options).tolist() == [1, NEGATIVE]


def test_without_objects_all_is_background_and_without_boxes_nothing() -> None:
    options: dict[str, Any] = {"positive_iou": 0.0, "negative_iou": 0.0, "low_quality_iou": 0.0}
    assert match(OBJECTS[:0], shifted(0, 1), **options).tolist() == [NEGATIVE, NEGATIVE]
    assert match(OBJECTS, shifted()[:0].reshape(0, 4), **options).tolist() == []


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 40, (count, 2), generator=generator).float()
    return torch.cat((corner, corner + torch.randint(1, 30, (count, 2), generator=generator)), dim=1)


@pytest.mark.parametrize("chunk", [1, 700, 10**9])
def test_torchvisions_rule_in_groups_of_any_size(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MATCH_CHUNK", chunk)
    for seed in range(5):
        objects, boxes = random_boxes(9, seed), random_boxes(200, seed + 100)
        expected = Matcher(0.6, 0.3, allow_low_quality_matches=True)(box_iou(objects, boxes))
        found = match(
            objects, boxes, positive_iou=0.6, negative_iou=0.3, low_quality_iou=0.0, low_quality_overwrites=False
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize("chunk", [1, 700])
def test_groups_change_nothing(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, boxes = random_boxes(12, 1), random_boxes(150, 2)
    options: dict[str, Any] = {"positive_iou": 0.5, "negative_iou": 0.3, "low_quality_iou": 0.1}
    expected = match(objects, boxes, **options)
    monkeypatch.setattr(module, "MATCH_CHUNK", chunk)
    assert torch.equal(match(objects, boxes, **options), expected)


def test_levels() -> None:
    sides = [1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0]
    boxes = torch.tensor([[7, 9, 7 + side, 9 + side] for side in sides])
    expected = [0, 0, 1, 1, 2, 2, 3, 3]
    assert box_levels([boxes[:3], boxes[3:]], (4, 8, 16, 32)).tolist() == expected
    # The area counts: 56 x 224 is as large as 112 x 112.
    assert box_levels([torch.tensor([[0.0, 0, 56, 224], [0, 0, 55, 224]])], (4, 8, 16, 32)).tolist() == [1, 0]
    assert box_levels([boxes], (8, 16)).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert box_levels([torch.tensor([[3.0, 3, 3, 3]])], (4, 8, 16, 32)).tolist() == [0]
