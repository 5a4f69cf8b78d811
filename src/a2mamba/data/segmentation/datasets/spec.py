"""What is known of a published segmentation data set: one `SegmentationDataset`, in a file of its own."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

from a2mamba.data.segmentation.files import SegmentationLayout
from a2mamba.data.segmentation.labels import LabelMap

Palette = tuple[tuple[int, int, int], ...]
"""One color for each class: red, green, blue, 0 to 255."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the field trains and tests on a data set, SegFormer's way."""

    crop: int
    """height and width of training crops in pixels"""
    resize: tuple[int, int]
    """limits of the longer and of the shorter side in pixels"""
    batch: int
    """images in one step"""
    interval: int
    """steps between two evaluations"""
    test_mode: str
    """name of the test mode, one of `segmentation.inference.TEST_MODES`"""


@dataclass(frozen=True, kw_only=True)
class SegmentationDataset:
    """A published data set."""

    name: str
    """as `SegmentationData.layout`"""
    folder: str
    """where recipes look for it"""
    layout: SegmentationLayout
    """where its files are under that folder"""
    label_map: Callable[[int], LabelMap]
    """number of classes -> the table between numbers in its label files and class indices"""
    classes: tuple[str, ...]
    """names, in the order of class indices"""
    marker: str | None
    """a file that comes with it, where others use its folders for classes of their own; None: nobody does"""
    palette: Palette | None
    """the colors in general use; None: there are none"""
    images: tuple[int, int]
    """how many there are to train on, and to evaluate on"""
    protocol: Protocol


def names(text: str) -> tuple[str, ...]:
    """Names between commas, over any number of lines."""
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


def colors(text: str) -> Palette:
    """Colors as six hexadecimal digits each, between blanks."""
    return tuple((int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in text.split())


def distinct_palette(count: int) -> Palette:
    """Return `count` colors without black or white, neighbors far apart; the same number gives the same colors.

    Args:
        count: 0 to 256; all of them are distinct.

    Raises:
        ValueError: a number out of range.
    """
    if not 0 <= count <= 256:
        raise ValueError(f"count={count}: expected 0 to 256, as many as an 8-bit label file can hold")
    # Turning the hue by the golden ratio never comes back to a hue; three strengths keep close hues apart. The first
    # class is the background as often as not, and gets a quiet blue.
    strengths = ((0.55, 0.85), (0.85, 0.95), (0.9, 0.65))
    hues = ((0.6 + index * 0.6180339887498949) % 1.0 for index in range(count))
    return tuple(
        (round(255 * red), round(255 * green), round(255 * blue))
        for red, green, blue in (
            colorsys.hsv_to_rgb(hue, *strengths[index % len(strengths)]) for index, hue in enumerate(hues)
        )
    )
