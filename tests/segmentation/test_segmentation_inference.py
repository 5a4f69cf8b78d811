"""Test modes against their definition: networks that look at one pixel, stubs that flip, brute-force windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import a2mamba
from a2mamba.segmentation import TEST_MODES, TestMode, inference, predict
from a2mamba.segmentation.inference import resize_image, window_starts

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Pixelwise(nn.Module):
    """A 1 x 1 convolution with a nonlinearity; ``stride`` takes every n-th pixel, as a decoder that stops early."""

    def __init__(self, classes: int = 5, stride: int = 1) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, classes, 1)
        self.stride = stride
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor, *, native_resolution: bool = False) -> Tensor:
        assert native_resolution
        self.sizes.append(tuple(images.shape[2:]))
        return 4 * self.second(self.first(F.avg_pool2d(images, self.stride, ceil_mode=True)).tanh())


class Blurred(Pixelwise):
    """Looks around a pixel, alike to the left and to the right."""

    def forward(self, images: Tensor, *, native_resolution: bool = False) -> Tensor:
        return super().forward(F.avg_pool2d(images, 5, 1, 2), native_resolution=native_resolution)


def image(height: int, width: int) -> Tensor:
    torch.manual_seed(2)
    smooth = F.interpolate(torch.rand(1, 3, 5, 7), (height, width), mode="bicubic")[0]
    return (smooth.clamp(0, 1) * 255).byte()


def run(model: nn.Module, photo: Tensor, mode: TestMode, **options: Any) -> Tensor:
    return predict(model.eval(), photo, mode=mode, mean=MEAN, std=STD, **options)


def normalized(photo: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    return ((photo / 255 - mean) / std)[None]


def by_hand(model: nn.Module, photo: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return the probabilities of one whole-image pass, written as the protocol says it."""
    resized = photo
    for size in sizes:
        resized = resize_image(resized, size)
    logits = model(normalized(resized), native_resolution=True)
    for size in (sizes[-1], (photo.shape[1], photo.shape[2])):
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return logits.softmax(1)[0]


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("size", [(60, 97), (97, 60), (31, 33)])
def test_whole_images_follow_the_protocol(size: tuple[int, int], stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "STRIP_ELEMENTS", 5 * 97 * 7)  # strips of a few rows
    model, photo = Blurred(stride=stride).eval(), image(*size)
    mode = TestMode(box=(160, 40), align=32)
    long, short = max(size), min(size)
    scale = min(160 / long, 40 / short)
    first = (int(size[0] * scale + 0.5), int(size[1] * scale + 0.5))
    second = (-(-first[0] // 32) * 32, -(-first[1] // 32) * 32)
    assert first != second
    with torch.no_grad():
        expected = by_hand(model, photo, [first, second])
    found = run(model, photo, mode, probabilities=True)
    assert found.shape == (5, *size)
    assert (found - expected).abs().max() < 1e-5
    assert mode.sizes(*size) == [second]
    classes = run(model, photo, mode)
    assert classes.dtype == torch.int64
    assert torch.equal(classes, found.argmax(0))
    assert len(classes.unique()) > 1


@pytest.mark.parametrize("scales_of", ["box", "image"])
def test_scales_and_flips_are_averaged(scales_of: Any) -> None:
    model, photo = Blurred(stride=2).eval(), image(48, 75)
    mode = TestMode(box=(120, 60), scales=(0.5, 1.25), flip=True, scales_of=scales_of)
    total = torch.zeros(5, 48, 75)
    for scale in mode.scales:
        box = (int(120 * scale), int(60 * scale))
        factor = min(box[0] / 75, box[1] / 48) if scales_of == "box" else scale
        size = (int(48 * factor + 0.5), int(75 * factor + 0.5))
        for axes in ([], [2]):
            resized = resize_image(photo, size).flip(axes)
            with torch.no_grad():
                logits = model(normalized(resized), native_resolution=True).flip([a + 1 for a in axes])
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
            total += F.interpolate(logits, (48, 75), mode="bilinear", align_corners=False).softmax(1)[0]
    model.sizes.clear()
    found = run(model, photo, mode, probabilities=True)
    assert (found - total / 4).abs().max() < 1e-5
    assert len(model.sizes) == 4
    assert len(set(model.sizes)) == 2


def test_flips_change_nothing_for_a_network_that_flips_along() -> None:
    model, photo = Blurred(), image(40, 64)
    plain = run(model, photo, TestMode(), probabilities=True)
    flipped = run(model, photo, TestMode(flip=True), probabilities=True)
    assert (plain - flipped).abs().max() < 1e-5
    assert (plain.flip(2) - plain).abs().max() > 0.1, "the photo is not its own mirror image"


def test_scales_change_nothing_where_there_is_one_color() -> None:
    photo = torch.tensor([200, 30, 90], dtype=torch.uint8)[:, None, None].expand(3, 40, 64).contiguous()
    plain = run(Pixelwise(stride=4), photo, TestMode(), probabilities=True)
    many = run(Pixelwise(stride=4), photo, TestMode(scales=(0.5, 0.75, 1.0, 1.75), flip=True), probabilities=True)
    assert (plain - many).abs().max() < 1e-5


@pytest.mark.parametrize(("crop", "stride"), [(32, 32), (32, 24), (40, 7), (17, 5)])
@pytest.mark.parametrize("size", [(70, 101), (32, 101), (20, 90)])
def test_windows_are_exact_for_a_pixelwise_network(size: tuple[int, int], crop: int, stride: int) -> None:
    model, photo = Pixelwise(), image(*size)
    whole = run(model, photo, TestMode(), probabilities=True)
    model.sizes.clear()
    slide = run(model, photo, TestMode(mode="slide", crop=crop, stride=stride), probabilities=True)
    assert (whole - slide).abs().max() < 1e-5
    assert len(model.sizes) > 1
    assert max(model.sizes) <= (crop, crop)


@pytest.mark.parametrize("rows", [1, 13, 1000])
def test_windows_are_averaged(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "STRIP_ELEMENTS", 5 * 90 * rows)
    model, photo, crop, stride = Blurred(stride=4).eval(), image(75, 90), 32, 24
    total, count = torch.zeros(5, 75, 90), torch.zeros(75, 90)
    images = normalized(photo)
    for top in (0, 24, 43):
        for left in (0, 24, 48, 58):
            area = (slice(top, top + crop), slice(left, left + crop))
            with torch.no_grad():
                logits = model(images[:, :, area[0], area[1]], native_resolution=True)
            total[:, area[0], area[1]] += F.interpolate(logits, (crop, crop), mode="bilinear", align_corners=False)[0]
            count[area] += 1
    found = run(model, photo, TestMode(mode="slide", crop=crop, stride=stride), probabilities=True)
    assert (found - (total / count).softmax(0)).abs().max() < 1e-5
    assert (found - run(model, photo, TestMode(), probabilities=True)).abs().max() > 1e-3


def test_window_starts() -> None:
    assert window_starts(2048, 1024, 768) == [0, 768, 1024]
    assert window_starts(1024, 1024, 768) == [0]
    assert window_starts(500, 1024, 768) == [0]
    assert window_starts(1793, 1024, 768) == [0, 768, 769]


def test_whole_is_slide_when_the_window_covers_the_image() -> None:
    torch.manual_seed(0)
    model = a2mamba.create_segmenter("segman_v2_test", num_classes=6)
    photo = image(70, 91)
    whole = run(model, photo, TestMode(), probabilities=True)
    slide = run(model, photo, TestMode(mode="slide", crop=128, stride=96), probabilities=True)
    assert (whole - slide).abs().max() < 1e-5
    with torch.no_grad():
        expected = model(normalized(photo)).softmax(1)[0]
    assert (whole - expected).abs().max() < 1e-5


class Uniform(nn.Module):
    """Equal logits of many classes at stride 8."""

    def forward(self, images: Tensor, *, native_resolution: bool = False) -> Tensor:
        return images.new_zeros(len(images), 150, images.shape[2] // 8, images.shape[3] // 8)


class LargestTensor(TorchDispatchMode):
    """Notes the size of the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize("mode", [TestMode(box=(256, 64)), TestMode(box=(256, 64), mode="slide", crop=32, stride=24)])
def test_large_images_take_strips(mode: TestMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tensor comes near a map of all classes at the original size."""
    monkeypatch.setattr(inference, "STRIP_ELEMENTS", 2**18)
    with LargestTensor() as largest:
        found = run(Uniform(), torch.zeros(3, 450, 600, dtype=torch.uint8), mode)
    assert found.shape == (450, 600)
    assert 2**17 < largest.elements < 150 * 450 * 600 / 30


def test_every_preset_fits_its_protocol() -> None:
    assert TEST_MODES["ade20k_swin"].sizes(480, 640) == [(512, 683)]
    assert TEST_MODES["ade20k_swin"].sizes(640, 480) == [(683, 512)]
    assert TEST_MODES["ade20k"].sizes(480, 640) == [(512, 704)]
    assert TEST_MODES["coco_stuff"].sizes(640, 480) == [(704, 512)]
    assert TEST_MODES["cityscapes"].sizes(1024, 2048) == [(1024, 2048)]
    assert TEST_MODES["cityscapes_whole"].sizes(1024, 2048) == [(1024, 2048)]
    assert TEST_MODES["image"].sizes(33, 47) == [(33, 47)]
    assert TEST_MODES["ade20k"].sizes(300, 3000) == [(224, 2048)], "the long side limits"
    assert (TEST_MODES["cityscapes"].crop, TEST_MODES["cityscapes"].stride) == (1024, 768)
    many = TEST_MODES["ade20k_swin_ms"]
    assert many.flip
    assert many.sizes(480, 640) == [(256, 341), (384, 512), (512, 683), (640, 853), (768, 1024), (896, 1195)]


def test_mistakes() -> None:
    for change in (
        {"mode": "windows"},
        {"scales_of": "crop"},
        {"scales": ()},
        {"scales": (0.5, 0.0)},
        {"stride": 600},
        {"stride": 0},
        {"box": (0, 512)},
        {"align": 0},
    ):
        with pytest.raises(ValueError, match="expected"):
            dataclasses.replace(TestMode(), **change)
    for wrong in (
        torch.zeros(3, 8, 8),
        torch.zeros(1, 8, 8).byte(),
        torch.zeros(1, 3, 8, 8).byte(),
        image(8, 8)[:, :0],
    ):
        with pytest.raises(ValueError, match=r"expected an image uint8 \(3, H, W\)"):
            run(Pixelwise(), wrong, TestMode())
    with pytest.raises(ValueError, match=r"call model\.eval\(\)"):
        predict(Pixelwise().train(), image(8, 8), mode=TestMode(), mean=MEAN, std=STD)
