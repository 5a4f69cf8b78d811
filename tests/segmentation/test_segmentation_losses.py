"""The loss against a count over pixels."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch.nn import functional as F

from a2mamba.segmentation import IGNORE_INDEX, pixel_cross_entropy


def test_against_a_loop_over_pixels() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    targets = torch.randint(0, 5, (2, 4, 6))
    targets[0, 1, 2:5] = IGNORE_INDEX
    total, valid = 0.0, 0
    for b in range(2):
        for i in range(4):
            for j in range(6):
                label = int(targets[b, i, j])
                if label == IGNORE_INDEX:
                    continue
                scores = logits[b, :, i, j].tolist()
                total += math.log(sum(map(math.exp, scores))) - scores[label]
                valid += 1
    assert valid == 45
    assert pixel_cross_entropy(logits, targets).item() == pytest.approx(total / 48)
    assert pixel_cross_entropy(logits, targets, average="valid").item() == pytest.approx(total / 45)
    other = targets.where(targets != IGNORE_INDEX, torch.full_like(targets, -1))
    assert pixel_cross_entropy(logits, other, ignore_index=-1).item() == pytest.approx(total / 48)


def test_logits_are_resized_to_the_labels() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 13, 17))
    enlarged = F.interpolate(logits, (13, 17), mode="bilinear", align_corners=False)
    assert pixel_cross_entropy(logits, targets).item() == pytest.approx(F.cross_entropy(enlarged, targets).item())


def test_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    logits = (10 * torch.randn(1, 3, 8, 8)).bfloat16()
    targets = torch.randint(0, 3, (1, 16, 16))
    found = pixel_cross_entropy(logits, targets)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(pixel_cross_entropy(logits.float(), targets).item(), rel=1e-6)


@pytest.mark.parametrize("average", ["all", "valid"])
def test_a_batch_without_labels_costs_nothing(average: Literal["all", "valid"]) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 8, 8), IGNORE_INDEX), average=average)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_mistakes() -> None:
    logits = torch.zeros(2, 3, 4, 4)
    for targets in (torch.zeros(1, 4, 4).long(), torch.zeros(2, 1, 4, 4).long()):
        with pytest.raises(ValueError, match=r"expected \(B, classes, h, w\) and \(B, H, W\)"):
            pixel_cross_entropy(logits, targets)
    with pytest.raises(ValueError, match="average='mean'"):
        pixel_cross_entropy(logits, torch.zeros(2, 4, 4).long(), average="mean")  # type: ignore[arg-type]  # the mistake
