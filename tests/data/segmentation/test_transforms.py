from __future__ import annotations

import colorsys
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from a2mamba.data import seeded
from a2mamba.data.segmentation import transforms as steps


def noise(*shape: int, seed: int = 0, high: int = 256) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8))


@pytest.mark.parametrize(
    ("image", "box", "expected"),
    [
        ((512, 683), (2048, 512), (512, 683)),  # ADE20K's usual size: nothing to do
        ((1024, 2048), (2048, 1024), (1024, 2048)),  # Cityscapes
        ((300, 600), (2048, 512), (512, 1024)),  # the short side decides
        ((600, 300), (2048, 512), (1024, 512)),
        ((100, 1000), (2048, 512), (205, 2048)),  # the long side decides; 204.8 rounds up
        ((100, 1000), (512, 2048), (205, 2048)),  # in either order
        ((5, 8), (4, 4), (3, 4)),  # 2.5 rounds up
        ((1, 1000), (100, 100), (1, 100)),  # never to nothing
    ],
)
def test_box_size(image: tuple[int, int], box: tuple[int, int], expected: tuple[int, int]) -> None:
    assert steps.box_size(*image, box) == expected


@pytest.mark.parametrize("size", [(61, 90), (19, 23), (37, 52)])
def test_resizing(size: tuple[int, int]) -> None:
    image, labels = noise(3, 37, 52), noise(37, 52, seed=1)
    resized = steps.resize_image(image, size)
    expected = functional.interpolate(image[None].float(), size, mode="bilinear", align_corners=False)[0]
    assert resized.dtype == torch.uint8
    # No smoothing: an antialiased image is far from this where it shrinks.
    assert (resized.float() - expected).abs().max() <= 1
    rows = np.floor(np.arange(size[0]) * 37 / size[0]).astype(int)
    columns = np.floor(np.arange(size[1]) * 52 / size[1]).astype(int)
    assert np.array_equal(steps.resize_labels(labels, size).numpy(), labels.numpy()[rows][:, columns])


def test_box_resize_draws_the_factor() -> None:
    image, labels = noise(3, 40, 60), noise(40, 60)
    heights = []
    with seeded(0):
        for _ in range(300):
            resized, targets = steps.random_box_resize(image, labels, box=(240, 40), ratio=(0.5, 2.0))
            assert resized.shape[1:] == targets.shape
            heights.append(len(targets))
    assert (min(heights), max(heights)) == (20, 79)
    assert np.mean(heights) == pytest.approx(50, abs=2.5)  # uniform, not log-uniform
    resized, _ = steps.random_box_resize(image, labels, box=(240, 40), ratio=(1.3, 1.3))
    assert resized.shape == (3, 52, 78)


def crop_by_hand(labels: np.ndarray, size: tuple[int, int], limit: float) -> tuple[int, int, int]:
    """Top, left and number of draws, from the same random numbers."""
    for draw in range(1, 12):
        top = random.randrange(labels.shape[0] - size[0] + 1)
        left = random.randrange(labels.shape[1] - size[1] + 1)
        seen = labels[top : top + size[0], left : left + size[1]]
        _, counts = np.unique(seen[seen != 255], return_counts=True)
        if len(counts) > 1 and counts.max() / counts.sum() < limit:
            return top, left, draw
    return top, left, 11


def test_crops_are_varied() -> None:
    labels = np.zeros((60, 80), dtype=np.uint8)
    labels[30:45, 50:70] = 1
    labels[:, :10] = 255
    image = noise(3, 60, 80)
    draws = []
    for seed in range(40):
        with seeded(seed):
            top, left, draw = crop_by_hand(labels, (20, 24), 0.75)
        with seeded(seed):
            cut, targets = steps.random_crop(image, torch.from_numpy(labels), size=(20, 24), category_limit=0.75)
        assert torch.equal(cut, image[:, top : top + 20, left : left + 24])
        assert np.array_equal(targets.numpy(), labels[top : top + 20, left : left + 24])
        draws.append(draw)
    assert min(draws) == 1  # the first place was taken, a later one, and the last one
    assert 11 in draws
    assert any(1 < draw < 11 for draw in draws)


def test_crops_of_one_class_are_tried_ten_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def zero(stop: int) -> int:
        calls.append(stop)
        return 0

    monkeypatch.setattr(random, "randrange", zero)
    for limit, expected in ((0.75, 11), (1.0, 1)):
        calls.clear()
        steps.random_crop(noise(3, 9, 9), torch.zeros(9, 9, dtype=torch.uint8), size=(4, 4), category_limit=limit)
        assert len(calls) == 2 * expected
    # Ignored pixels are no second class; exactly the limit is too much; there may be no class at all.
    for labels in ([[0, 0], [255, 255]], [[0, 0], [0, 1]], [[255, 255], [255, 255]]):
        calls.clear()
        steps.random_crop(noise(3, 2, 2), torch.tensor(labels, dtype=torch.uint8), size=(2, 2), category_limit=0.75)
        assert len(calls) == 22


def test_crop_of_a_small_image() -> None:
    image, labels = noise(3, 10, 30), noise(10, 30, high=4)
    cut, targets = steps.random_crop(image, labels, size=(16, 16), category_limit=0.75)
    assert cut.shape == (3, 10, 16)
    assert targets.shape == (10, 16)


def test_flip() -> None:
    image, labels = noise(3, 4, 5), noise(4, 5)
    assert steps.random_flip(image, labels, probability=0.0)[0] is image
    flipped, targets = steps.random_flip(image, labels, probability=1.0)
    assert np.array_equal(flipped.numpy(), image.numpy()[:, :, ::-1])
    assert np.array_equal(targets.numpy(), labels.numpy()[:, ::-1])
    with seeded(0):
        count = sum(torch.equal(steps.random_flip(image, labels, probability=0.3)[1], targets) for _ in range(500))
    assert count == pytest.approx(150, abs=40)


def test_hsv_is_what_the_standard_library_says() -> None:
    image = noise(3, 40, 50)
    image[:, 0] = torch.arange(50, dtype=torch.uint8)  # grays
    image[0, 1], image[1, 1], image[2, 1] = 255, 0, 0
    image[0, 2], image[1, 2], image[2, 2] = 9, 9, 3
    hue, saturation, value = steps.rgb_to_hsv(image)
    back = steps.hsv_to_rgb(hue, saturation, value)
    for row in range(40):
        for column in range(0, 50, 3):
            rgb = [channel / 255 for channel in image[:, row, column].tolist()]
            h, s, v = colorsys.rgb_to_hsv(*rgb)
            assert value[row, column] == round(255 * v)
            assert abs(int(saturation[row, column]) - 255 * s) <= 0.5 + 1e-4
            turn = abs(int(hue[row, column]) - 180 * h)
            assert min(turn, 180 - turn) <= 0.5 + 1e-4
            found = (int(hue[row, column]) / 180, int(saturation[row, column]) / 255, int(value[row, column]) / 255)
            expected = np.array(colorsys.hsv_to_rgb(*found)) * 255
            assert np.abs(back[:, row, column].numpy() - expected).max() <= 0.5 + 1e-3
    assert int(hue.max()) <= 179
    assert torch.equal(back[:, 0], image[:, 0])  # grays stay as they are


class Script:
    """Stands in for random: coins as told, numbers as told, and what was asked for."""

    def __init__(self, coins: str, numbers: list[float]) -> None:
        self.coins = iter([0.0 if coin == "1" else 0.9 for coin in coins])
        self.numbers: Iterator[float] = iter(numbers)
        self.ranges: list[tuple[float, float]] = []

    def random(self) -> float:
        return next(self.coins)

    def uniform(self, low: float, high: float) -> float:
        self.ranges.append((low, high))
        return next(self.numbers)

    def randrange(self, low: int, high: int) -> int:
        self.ranges.append((low, high))
        return int(next(self.numbers))


def distorted(
    image: Tensor, coins: str, numbers: list[float], monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Script]:
    script = Script(coins, numbers)
    monkeypatch.setattr(steps, "random", script)
    result = steps.photometric_distortion(image)
    monkeypatch.undo()
    assert not list(script.coins)  # every coin was thrown, every number drawn
    assert not list(script.numbers)
    return result, script


def scaled(values: np.ndarray, factor: float, offset: float = 0.0) -> np.ndarray:
    exact = values.astype(np.float32) * np.float32(factor) + np.float32(offset)
    return np.clip(exact, 0, 255).astype(np.uint8)  # rounds towards zero


def test_distortion_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coins: brightness, contrast last, (contrast first,) saturation, hue(, contrast last)."""
    image = noise(3, 30, 30)
    pixels = image.numpy()
    hue, saturation, value = steps.rgb_to_hsv(image)

    same, script = distorted(image, "00000", [], monkeypatch)
    assert torch.equal(same, image)
    assert script.ranges == []
    same, _ = distorted(image, "01000", [], monkeypatch)
    assert torch.equal(same, image)

    for offset in (20.7, -31.6):
        found, script = distorted(image, "10000", [offset], monkeypatch)
        assert np.array_equal(found.numpy(), scaled(pixels, 1.0, offset))
        assert script.ranges == [(-32, 32)]
    for coins in ("00100", "01001"):
        found, script = distorted(image, coins, [1.37], monkeypatch)
        assert np.array_equal(found.numpy(), scaled(pixels, 1.37))
        assert script.ranges == [(0.5, 1.5)]
    found, script = distorted(image, "00010", [0.6], monkeypatch)
    stronger = torch.from_numpy(scaled(saturation.numpy(), 0.6))
    assert torch.equal(found, steps.hsv_to_rgb(hue, stronger, value))
    assert script.ranges == [(0.5, 1.5)]
    for turn in (-18, 17):
        found, script = distorted(image, "00001", [turn], monkeypatch)
        turned = torch.from_numpy(((hue.numpy().astype(int) + turn) % 180).astype(np.uint8))
        assert torch.equal(found, steps.hsv_to_rgb(turned, saturation, value))
        assert script.ranges == [(-18, 18)]


def test_order_of_distortion(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(3, 30, 30)
    for last in (False, True):
        numbers = [12.5, 1.2, 17, 1.4] if last else [12.5, 1.4, 1.2, 17]
        found, _ = distorted(image, "11111" if last else "10111", numbers, monkeypatch)
        expected = torch.from_numpy(scaled(image.numpy(), 1.0, 12.5))
        if not last:
            expected = torch.from_numpy(scaled(expected.numpy(), 1.4))
        hue, saturation, value = steps.rgb_to_hsv(expected)
        expected = steps.hsv_to_rgb(hue, torch.from_numpy(scaled(saturation.numpy(), 1.2)), value)
        hue, saturation, value = steps.rgb_to_hsv(expected)
        turned = torch.from_numpy(((hue.numpy().astype(int) + 17) % 180).astype(np.uint8))
        expected = steps.hsv_to_rgb(turned, saturation, value)
        if last:
            expected = torch.from_numpy(scaled(expected.numpy(), 1.4))
        assert torch.equal(found, expected)


def test_probabilities_of_distortion() -> None:
    image = noise(3, 4, 4)
    with seeded(0):
        same = sum(torch.equal(steps.photometric_distortion(image), image) for _ in range(2000))
    # None of the four steps: one in sixteen, and hue or saturation that happen to change nothing now and then.
    assert same == pytest.approx(2000 / 16, abs=50)


def test_normalizing_and_padding() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image, labels = noise(3, 5, 7), noise(5, 7)
    normal = steps.normalize(image, mean=mean, std=std)
    expected = (image.numpy().transpose(1, 2, 0) - np.array([123.675, 116.28, 103.53])) / [58.395, 57.12, 57.375]
    assert normal.dtype == torch.float32
    assert np.allclose(normal.numpy(), expected.transpose(2, 0, 1), atol=1e-5)
    padded, targets = steps.pad(normal, labels, size=(6, 10))
    assert torch.equal(padded[:, :5, :7], normal)
    assert torch.equal(targets[:5, :7], labels)
    assert padded[:, 5:].abs().sum() == padded[:, :, 7:].abs().sum() == 0
    assert set(targets[5:].flatten().tolist()) == set(targets[:, 7:].flatten().tolist()) == {255}
    same, _ = steps.pad(normal, labels, size=(4, 7))
    assert same.shape == (3, 5, 7)
