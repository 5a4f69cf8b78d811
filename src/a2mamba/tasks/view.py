"""An image as a network sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image


class View(NamedTuple):
    """An image as a network sees it: resized, and cropped or padded where the network's protocol does so."""

    batch: Tensor
    """(1, C, h, w), normalized, as the backbone takes it"""
    image: Image.Image
    """the same for people: "RGB", w x h pixels"""
    mean: Sequence[float]
    std: Sequence[float]
    """of each channel, that ``batch`` is normalized with, for values in [0, 1]"""


def view_of_batch(batch: Tensor, mean: Sequence[float], std: Sequence[float]) -> View:
    """Return the view of a normalized image (1, C, h, w); mean and std of each channel, for values in [0, 1]."""
    shown = batch[0].float().cpu() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    # Of more than three channels, red, green and blue come first.
    return View(batch, to_pil_image(shown[:3].clamp(0, 1)).convert("RGB"), mean, std)
