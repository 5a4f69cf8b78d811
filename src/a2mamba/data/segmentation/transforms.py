"""The training pipeline of semantic segmentation, step by step: resize, crop, flip, distortion, normalization, padding.

The steps, their order and their probabilities are those of the Swin and SegFormer protocols. Images are uint8
(3, H, W) until they are normalized, class maps uint8 (H, W). Randomness comes from python's global generator, which
`SeededDataset` seeds for each sample.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor
from torch.nn import functional

from a2mamba.data.segmentation.labels import IGNORE_LABEL

_CROP_TRIES = 10
_HUES = 180
"""Steps of a whole turn of the hue: 2 degrees each, so that a hue fits in 8 bits."""


def box_size(height: int, width: int, box: tuple[int, int]) -> tuple[int, int]:
    """Height and width of an image scaled, aspect kept, to fit a box.

    Args:
        height: of the image.
        width: of the image.
        box: limits in pixels of the longer and of the shorter side, in either order.
    """
    scale = min(max(box) / max(height, width), min(box) / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, without smoothing when it shrinks: uint8 (3, H, W) -> uint8 (3, *size)."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    return transforms.resize(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=False)


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest: uint8 (H, W) -> uint8 size."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    return transforms.resize(labels[None], list(size), interpolation=InterpolationMode.NEAREST)[0]


def random_box_resize(
    image: Tensor, labels: Tensor, *, box: tuple[int, int], ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Fit both into the box times a number drawn uniformly from `ratio`."""
    factor = random.uniform(*ratio)
    height, width = labels.shape
    size = box_size(height, width, (max(1, int(box[0] * factor)), max(1, int(box[1] * factor))))
    return resize_image(image, size), resize_labels(labels, size)


def random_crop(
    image: Tensor, labels: Tensor, *, size: tuple[int, int], category_limit: float
) -> tuple[Tensor, Tensor]:
    """Cut out a place that is not all of one class.

    A place is taken if it shows two or more classes and none of them covers `category_limit` of its pixels, ignored
    ones left out. Otherwise another is drawn, at most 10 times; the last one is taken as it is. A side that is shorter
    than the crop stays as it is.

    Args:
        image: (3, H, W).
        labels: uint8 (H, W).
        size: height and width of the crop.
        category_limit: a fraction; 1 or more takes the first place.
    """
    high, wide = (min(crop, side) for crop, side in zip(size, labels.shape, strict=True))
    place = slice(None), slice(None)
    for draw in range(1 + _CROP_TRIES):
        top = random.randrange(labels.shape[0] - high + 1)
        left = random.randrange(labels.shape[1] - wide + 1)
        place = (slice(top, top + high), slice(left, left + wide))
        if category_limit >= 1 or draw == _CROP_TRIES or _is_varied(labels[place], category_limit):
            break
    return image[:, place[0], place[1]], labels[place]


def random_flip(image: Tensor, labels: Tensor, *, probability: float) -> tuple[Tensor, Tensor]:
    """Mirror both, left to right."""
    if random.random() < probability:
        return image.flip(-1), labels.flip(-1)
    return image, labels


def photometric_distortion(image: Tensor) -> Tensor:
    """Random brightness, contrast, saturation and hue, each with probability one half: uint8 (3, H, W) -> the same.

    Contrast comes after brightness or at the end, with equal chance. Every step rounds down to 8 bits. torchvision's
    `RandomPhotometricDistort` is another procedure: it multiplies brightness, takes contrast about the mean, and
    permutes the channels.
    """
    if _coin():
        image = _affine(image, 1.0, random.uniform(-32, 32))
    contrast_last = _coin()
    if not contrast_last and _coin():
        image = _affine(image, random.uniform(0.5, 1.5), 0.0)
    if _coin():
        hue, saturation, value = rgb_to_hsv(image)
        image = hsv_to_rgb(hue, _affine(saturation, random.uniform(0.5, 1.5), 0.0), value)
    if _coin():
        hue, saturation, value = rgb_to_hsv(image)
        turned = (hue.to(torch.int16) + random.randrange(-18, 18)) % _HUES
        image = hsv_to_rgb(turned.to(torch.uint8), saturation, value)
    if contrast_last and _coin():
        image = _affine(image, random.uniform(0.5, 1.5), 0.0)
    return image


def rgb_to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 (3, H, W) -> hue (0 to 179, steps of 2 degrees), saturation and value (0 to 255), each uint8 (H, W)."""
    red, green, blue = image.to(torch.int16)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    divisor = spread.clamp(min=1).float()
    saturation = (spread.float() * 255 / value.clamp(min=1)).round_()
    # Sixths of a turn, from the largest channel; with equal channels red comes before green, green before blue.
    sixth = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = (sixth * (_HUES / 6)).round_().remainder_(_HUES)
    return hue.to(torch.uint8), saturation.to(torch.uint8), value.to(torch.uint8)


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The inverse of `rgb_to_hsv` up to the rounding of both: three uint8 (H, W) -> uint8 (3, H, W)."""
    sixth = hue.float() * (6 / _HUES)
    strength = value.float() * saturation.float() / 255
    # A channel is at its height over a third of the turn around its own hue, and falls off within a sixth on each side.
    channels = [
        value - strength * torch.minimum(shifted, 4 - shifted).clamp_(0, 1)
        for shifted in ((sixth + offset).remainder_(6) for offset in (5, 3, 1))
    ]
    return torch.stack(channels).round_().clamp_(0, 255).to(torch.uint8)


def normalize(image: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 (..., 3, H, W) -> float32: minus the mean, over the standard deviation, both of values in [0, 1]."""
    mean_values = torch.tensor(mean, device=image.device)[:, None, None] * 255
    std_values = torch.tensor(std, device=image.device)[:, None, None] * 255
    return (image.float() - mean_values) / std_values


def pad(image: Tensor, labels: Tensor, *, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Fill up to at least `size`, on the right and at the bottom.

    The image with 0, which is the mean color where it is normalized; labels with `IGNORE_LABEL`.
    """
    missing = [max(0, wanted - side) for wanted, side in zip(size, labels.shape, strict=True)]
    edges = (0, missing[1], 0, missing[0])
    return functional.pad(image, edges, value=0), functional.pad(labels, edges, value=IGNORE_LABEL)


def _coin() -> bool:
    return random.random() < 0.5


def _affine(values: Tensor, factor: float, offset: float) -> Tensor:
    """uint8 -> uint8: times the factor plus the offset, clipped to 0..255 and rounded down."""
    return (values.float() * factor + offset).clamp_(0, 255).to(torch.uint8)


def _is_varied(labels: Tensor, category_limit: float) -> bool:
    counts = torch.bincount(labels.flatten(), minlength=256)[:IGNORE_LABEL]
    counts = counts[counts > 0]
    return len(counts) > 1 and bool(counts.max() < category_limit * counts.sum())
