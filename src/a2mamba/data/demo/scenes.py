"""Scenes of digits: an image, where each digit is visible, and the class of every pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from a2mamba.data.demo.digits import Digits

ADE_UNLABELLED, ADE_BACKGROUND, ADE_FIRST_DIGIT = 0, 1, 2
"""Values of the class maps: 0 unlabeled, 1 background, 2 + d for digit d, as ADE20K numbers its classes from 1."""

_EMPTY_SHARE = 0.2
_MIN_VISIBLE = 0.75
# From the first opacity on a pixel belongs to its digit. Between the two it is an edge, neither digit nor plain
# background, and stays unlabeled in class maps.
_INK, _TRACE = 0.5, 0.15
_MIN_CONTRAST = 80

ADE, COCO = 1, 2
"""The sets of scenes: each has a stream of random numbers of its own."""


class Instance(NamedTuple):
    """A digit of a scene; mask: bool (H, W), where it is visible."""

    label: int
    mask: np.ndarray


class Scene(NamedTuple):
    """image: RGB; classes: uint8 (H, W) class map in ADE20K's numbering; instances: from back to front."""

    image: Image.Image
    classes: np.ndarray
    instances: list[Instance]


def draw_scenes(digits: Digits, count: int, size: tuple[int, int], *, entropy: tuple[int, ...]) -> Iterator[Scene]:
    """Scenes that depend on nothing but the digits, the size and the entropy."""
    generator = np.random.default_rng(entropy)
    empty = set(generator.permutation(count)[: round(_EMPTY_SHARE * count)].tolist())
    for number in range(count):
        yield _scene(digits, size, generator, with_digits=number not in empty)


def _scene(digits: Digits, size: tuple[int, int], generator: np.random.Generator, *, with_digits: bool) -> Scene:
    ground = _ground(size, generator)
    # Half of all scenes are cluttered, so that strokes say nothing about whether there are digits.
    strokes = int(generator.integers(5, 11)) if generator.random() < 0.5 else int(generator.integers(0, 3))
    pixels = np.asarray(_draw_strokes(ground, strokes, generator), dtype=np.float64)

    classes = np.full(size, ADE_BACKGROUND, dtype=np.uint8)
    owner = np.full(size, -1)  # index of the digit that is visible at a pixel
    labels: list[int] = []
    areas: list[int] = []
    colors: list[np.ndarray] = []
    wanted = int(generator.integers(1, 7)) if with_digits else 0
    for _ in range(wanted * 5):  # some places are refused
        if len(labels) == wanted:
            break
        choice = int(generator.integers(len(digits.labels)))
        opacity, area = _place(digits.ink[choice], size, generator)
        covered = opacity >= _INK
        visible = np.array([np.count_nonzero((owner == i) & ~covered) for i in range(len(areas))])
        if np.count_nonzero(covered) < _MIN_VISIBLE * area or np.any(visible < _MIN_VISIBLE * np.array(areas)):
            continue
        color = _contrasting(pixels[covered].mean(axis=0), colors, generator)
        pixels += opacity[..., None] * (color - pixels)
        classes[opacity >= _TRACE] = ADE_UNLABELLED
        classes[covered] = ADE_FIRST_DIGIT + digits.labels[choice]
        owner[covered] = len(labels)
        labels.append(int(digits.labels[choice]))
        areas.append(area)
        colors.append(color)
    pixels += generator.normal(0.0, 4.0, pixels.shape)  # grain over everything, ink included
    image = Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
    return Scene(image, classes, [Instance(label, owner == i) for i, label in enumerate(labels)])


def _ground(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """A surface whose color changes slowly from place to place."""
    height, width = size
    patches = generator.uniform(20, 235, 3) + generator.normal(0.0, 18.0, (4, 5, 3))
    coarse = Image.fromarray(np.clip(patches, 0, 255).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def _draw_strokes(ground: Image.Image, count: int, generator: np.random.Generator) -> Image.Image:
    """Lines, arcs and dots that belong to no digit; thinner than a digit's strokes."""
    draw = ImageDraw.Draw(ground)
    width, height = ground.size
    for _ in range(count):
        color = tuple(generator.integers(0, 256, 3).tolist())
        x, y = generator.uniform(0, width), generator.uniform(0, height)
        reach, thickness = generator.uniform(12, 60), int(generator.integers(1, 4))
        kind = generator.integers(3)
        if kind == 0:
            angle = generator.uniform(0, 2 * np.pi)
            draw.line((x, y, x + reach * np.cos(angle), y + reach * np.sin(angle)), fill=color, width=thickness)
        elif kind == 1:
            start = generator.uniform(0, 360)
            box = (x, y, x + reach, y + reach * generator.uniform(0.4, 1.0))
            draw.arc(box, start, start + generator.uniform(40, 160), fill=color, width=thickness)
        else:
            radius = generator.uniform(1, 5)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    return ground.filter(ImageFilter.GaussianBlur(0.6))


def _place(ink: np.ndarray, size: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """A digit, scaled and turned, somewhere in a scene: opacity float64 (H, W), and its whole area in pixels."""
    height, width = size
    extent = int(generator.integers(36, 65))
    angle = generator.uniform(-25, 25)  # little enough that a 6 is no 9
    # A margin of paper keeps the strokes that touch the border of the 8 x 8 image in one piece.
    image = Image.fromarray(np.pad(ink, 2)).resize((extent * 12 // 8,) * 2, Image.Resampling.BICUBIC)
    turned = np.asarray(image.rotate(angle, Image.Resampling.BICUBIC), dtype=np.float64) / 255
    rows, columns = np.flatnonzero((turned > 0.2).any(axis=1)), np.flatnonzero((turned > 0.2).any(axis=0))
    digit = turned[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # The upscaled image is blurred: steeper edges give a line of ink instead.
    digit = np.clip((digit - 0.25) / 0.45, 0, 1)
    digit = digit * digit * (3 - 2 * digit)

    high, wide = digit.shape
    top = int(generator.integers(-high // 6, max(height - high + high // 6, 0) + 1))
    left = int(generator.integers(-wide // 6, max(width - wide + wide // 6, 0) + 1))
    opacity = np.zeros(size)
    inside = digit[max(-top, 0) : height - top, max(-left, 0) : width - left]
    top, left = max(top, 0), max(left, 0)
    opacity[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return opacity, int(np.count_nonzero(digit >= _INK))


def _contrasting(ground: np.ndarray, others: list[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """A color that stands out in brightness from the ground, and differs from the digits that are there."""
    weights = np.array([0.299, 0.587, 0.114])
    while True:
        color = generator.uniform(0, 255, 3)
        if abs((color - ground) @ weights) < _MIN_CONTRAST:
            continue
        if all(np.abs(color - other).max() > 40 for other in others):
            return color
