"""scikit-learn's handwritten digits, and which of them are held out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

_INSTALL = 'the demo data needs scikit-learn; install it with: pip install "a2mamba[demo]"'
_DIGIT_SIZE = 32
_SPLIT = 0  # of the streams of random numbers


class Digits(NamedTuple):
    """ink: uint8 (N, 8, 8), 0 paper to 255 ink; labels: (N,), 0 to 9."""

    ink: np.ndarray
    labels: np.ndarray


def sklearn_datasets() -> Any:
    """Return scikit-learn's data sets; ImportError says what to install."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    return datasets


def demo_digits() -> Digits:
    """All 1797 digits.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    bunch = sklearn_datasets().load_digits()
    ink = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # the values are 0 to 16
    return Digits(ink, bunch.target.astype(np.int64))


def split_digits(digits: Digits, seed: int) -> tuple[Digits, Digits]:
    """Training digits and the held-out fifth, each class in the same proportion."""
    generator = np.random.default_rng((seed, _SPLIT))
    train, val = [], []
    for label in range(10):
        members = generator.permutation(np.flatnonzero(digits.labels == label))
        held_out = round(len(members) / 5)
        val.append(np.sort(members[:held_out]))
        train.append(np.sort(members[held_out:]))
    first, second = np.concatenate(train), np.concatenate(val)
    return Digits(digits.ink[first], digits.labels[first]), Digits(digits.ink[second], digits.labels[second])


def digit_image(ink: np.ndarray) -> Image.Image:
    """A digit (8, 8) uint8 as an image of 32 x 32, gray."""
    return Image.fromarray(ink).resize((_DIGIT_SIZE, _DIGIT_SIZE), Image.Resampling.BICUBIC)
