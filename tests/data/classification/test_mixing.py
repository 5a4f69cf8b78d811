"""Mixing, normalization, erasing: the authors' order and numbers, by hand."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from a2mamba.data.classification.mixing import BatchTransform

MEAN, STD = (0.5, 0.25, 0.1), (0.5, 0.2, 0.1)


def make(**changes: Any) -> BatchTransform:
    settings: dict[str, Any] = {
        "mixup": 0.0,
        "cutmix": 0.0,
        "smoothing": 0.1,
        "erasing": 0.0,
        "mean": MEAN,
        "std": STD,
        "classes": 10,
    }
    return BatchTransform(**{**settings, **changes})


def photos(batch: int = 4, size: int = 8) -> Tensor:
    """Each image of one value: 10, 20, 30, ..."""
    return (
        torch.arange(10, 10 * batch + 1, 10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(batch, 3, size, size).clone()
    )


def normalized(values: Tensor) -> Tensor:
    return (values.double() / 255 - torch.tensor(MEAN).view(-1, 1, 1)) / torch.tensor(STD).view(-1, 1, 1)


def restored(images: Tensor) -> Tensor:
    """The 8-bit values behind normalized images, in float."""
    return (images.double() * torch.tensor(STD).view(-1, 1, 1) + torch.tensor(MEAN).view(-1, 1, 1)) * 255


def reseed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # timm draws from it
    torch.manual_seed(seed)


TARGETS = torch.tensor([3, 0, 9, 1])


def test_plain_is_normalization_and_smoothing() -> None:
    images = photos()
    found, probabilities = make()(images, TARGETS)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), normalized(images), atol=1e-5)
    # off value 0.1 / 10, on value 0.9 + 0.1 / 10
    assert probabilities[0, 3].item() == pytest.approx(0.91)
    assert probabilities[0, 4].item() == pytest.approx(0.01)
    assert torch.equal(probabilities.argmax(-1), TARGETS)
    assert torch.allclose(probabilities.sum(-1), torch.ones(4))
    assert torch.equal(images, photos()), "the batch itself is not changed"


def test_mixup_by_hand() -> None:
    """lambda x + (1 - lambda) x mirrored in the batch's order, the same in the targets; lambda is Beta's draw."""
    for seed in range(5):
        reseed(seed)
        np.random.rand()  # whether to mix at all: always
        expected = np.random.beta(0.8, 0.8)
        reseed(seed)
        found, probabilities = make(mixup=0.8, smoothing=0.0)(photos(), TARGETS)
        values = photos().double()
        assert torch.allclose(restored(found), expected * values + (1 - expected) * values.flip(0), atol=1e-3)
        assert probabilities[0, 3].item() == pytest.approx(expected, abs=1e-6)
        assert probabilities[0, 1].item() == pytest.approx(1 - expected, abs=1e-6)


def test_smoothing_is_in_the_targets_before_they_are_mixed() -> None:
    reseed(0)
    np.random.rand()
    lam = np.random.beta(0.8, 0.8)
    reseed(0)
    _, probabilities = make(mixup=0.8)(photos(), TARGETS)
    assert probabilities[0, 3].item() == pytest.approx(lam * 0.91 + (1 - lam) * 0.01, abs=1e-6)
    assert probabilities[0, 1].item() == pytest.approx((1 - lam) * 0.91 + lam * 0.01, abs=1e-6)
    assert probabilities[0, 5].item() == pytest.approx(0.01, abs=1e-6)


def test_cutmix_replaces_one_box_and_counts_its_area() -> None:
    boxes = set()
    for seed in range(20):
        reseed(seed)
        found, probabilities = make(cutmix=1.0, smoothing=0.0)(photos(size=16), TARGETS)
        values = restored(found).round()[:, 0]
        partner = photos(size=16).flip(0)[:, 0]
        replaced = values[0] == partner[0]
        assert torch.equal(values == partner, replaced.expand(4, -1, -1)), "the same box in every image"
        assert torch.equal(values[0][~replaced], torch.full_like(values[0][~replaced], 10))
        rows, columns = replaced.any(1), replaced.any(0)
        assert replaced.sum() == rows.sum() * columns.sum(), "it is a box"
        share = replaced.double().mean().item()
        assert probabilities[0, 1].item() == pytest.approx(share, abs=1e-6)
        assert probabilities[0, 3].item() == pytest.approx(1 - share, abs=1e-6)
        boxes.add((int(rows.sum()), int(columns.sum())))
    assert len(boxes) > 8


def test_always_one_of_the_two_with_equal_chance() -> None:
    transform, kinds = make(mixup=0.8, cutmix=1.0), Counter[str]()
    for seed in range(400):
        reseed(seed)
        found, _ = transform(photos(), TARGETS)
        values = restored(found)[0, 0].round(decimals=2)
        if len(values.unique()) > 1:
            kinds["cutmix"] += 1
        else:
            kinds["mixup" if 10 < float(values[0, 0]) < 40 else "whole"] += 1
    # A CutMix box may cover everything or nothing; Mixup's lambda is hardly ever 0 or 1.
    assert kinds["mixup"] == pytest.approx(200, abs=40)
    assert kinds["cutmix"] > 130
    assert kinds["whole"] < 30


def test_erasing_comes_after_normalization_and_mixing() -> None:
    """What is erased is unit normal noise, not normalized noise, and not a mixture."""
    noise: list[Tensor] = []
    erased = 0
    reseed(0)
    transform = make(mixup=0.8, erasing=0.25)
    for _ in range(50):
        found, _ = transform(photos(8, size=32), torch.arange(8))
        for image in found:
            mixture = image[:, 0, 0] if len(image[0].unique()) == 1 else image[0].mode().values.mode().values
            outside = image[0] == (mixture[0] if mixture.dim() else mixture)
            if not outside.all():
                erased += 1
                noise.append(image[0][~outside])
                share = 1 - outside.double().mean().item()
                assert 0.01 < share < 0.36
                rows, columns = (~outside).any(1).sum(), (~outside).any(0).sum()
                assert (~outside).sum() == rows * columns, "one rectangle"
                assert 0.25 < float(rows / columns) < 4
    assert erased == pytest.approx(100, abs=30)  # a quarter of 400
    values = torch.cat(noise)
    assert values.mean().item() == pytest.approx(0, abs=0.05)
    assert values.std().item() == pytest.approx(1, abs=0.05)


def test_the_global_generators_decide() -> None:
    transform = make(mixup=0.8, cutmix=1.0, erasing=0.5)
    results = []
    for seed in (1, 1, 2):
        reseed(seed)
        results.append(transform(photos(), TARGETS))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_an_odd_batch_cannot_be_mixed() -> None:
    with pytest.raises(ValueError, match="even number of images in a forward pass, found 3"):
        make(mixup=0.8)(photos(3), TARGETS[:3])
    make()(photos(3), TARGETS[:3])
