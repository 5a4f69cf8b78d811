"""Images for `evidence.py`: which of three digits is the largest?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96
HEIGHTS = ((46, 58), (32, 40), (20, 28))
"""Pixels, from and to, of the three digits of an image; the first decides the class."""


def write_images(digits: Path, root: Path, *, train: int, val: int) -> None:
    """Write images of three digits in ImageNet's layout; the class is the largest digit's."""
    for split, count, seed in (("train", train, 0), ("val", val, 1)):
        generator = np.random.default_rng((2507, seed))
        folders = sorted((digits / split).iterdir())
        inks = [[np.asarray(Image.open(file).convert("L")) for file in sorted(folder.iterdir())] for folder in folders]
        for number in range(count):
            label = number % len(folders)
            target = root / split / folders[label].name / f"{number:05}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            image_of(label, inks, generator).save(target)


def image_of(label: int, inks: list[list[np.ndarray]], generator: np.random.Generator) -> Image.Image:
    """Return an image whose largest digit has this label; the others have any."""
    ground = Image.new("L", (SIDE, SIDE), int(generator.integers(0, 90)))
    draw = ImageDraw.Draw(ground)
    for _ in range(int(generator.integers(6, 12))):
        ends = generator.uniform(0, SIDE, 4).tolist()
        draw.line(ends, fill=int(generator.integers(60, 256)), width=int(generator.integers(1, 4)))
    pixels = np.asarray(ground, dtype=np.float64)
    free = np.ones((SIDE, SIDE), dtype=bool)
    for place, (low, high) in enumerate(HEIGHTS):
        choice = label if place == 0 else int(generator.integers(len(inks)))
        ink = Image.fromarray(inks[choice][int(generator.integers(len(inks[choice])))])
        side = int(generator.integers(low, high + 1))
        opacity = np.asarray(ink.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        for _ in range(50):  # where it covers no other digit, if there is such a place
            top, left = generator.integers(0, SIDE - side + 1, 2)
            window = (slice(top, top + side), slice(left, left + side))
            if free[window].all():
                break
        pixels[window] += opacity * (int(generator.integers(160, 256)) - pixels[window])
        free[window] = False
    pixels += generator.normal(0, 8, pixels.shape)
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
