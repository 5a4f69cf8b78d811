"""Multi-scale augmentation for detection, the "MS" policy of DETR and Sparse R-CNN that Swin's protocol uses.

Only images and boxes are transformed. For the masks it is enough to know which row and column of the original image
each of theirs comes from: flips, crops and nearest-neighbor resizes are choices of rows and columns, and one
selection at the end replaces three passes over every object's full-size bitmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class DetectionView(NamedTuple):
    """An image with its objects.

    image: uint8 (3, H, W). boxes: float32 (K, 4), x0 y0 x1 y1 in its pixels. kept: int64 (K,), which of the original
    objects these are. rows: int64 (H,), columns: int64 (W,): where in the original image each row and column of a
    mask comes from.
    """

    image: Tensor
    boxes: Tensor
    kept: Tensor
    rows: Tensor
    columns: Tensor


def original_view(image: Tensor, boxes: Tensor) -> DetectionView:
    """The image as it is."""
    height, width = image.shape[-2:]
    return DetectionView(image, boxes, torch.arange(len(boxes)), torch.arange(height), torch.arange(width))


def flip(view: DetectionView) -> DetectionView:
    """Left becomes right."""
    x0, y0, x1, y1 = view.boxes.unbind(dim=1)
    width = view.image.shape[-1]
    return view._replace(
        image=view.image.flip(-1),
        boxes=torch.stack((width - x1, y0, width - x0, y1), dim=1),
        columns=view.columns.flip(0),
    )


def resized_size(height: int, width: int, *, short: int, long: int) -> tuple[int, int]:
    """Height and width that have a short side of `short`, or a long side of `long` if that is smaller."""
    scale = min(long / max(height, width), short / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(view: DetectionView, *, short: int, long: int) -> DetectionView:
    """Bilinear, without antialiasing, as OpenCV does it; masks by nearest neighbor.

    Boxes follow the rounded sizes: the two axes have factors of their own.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    height, width = view.image.shape[-2:]
    high, wide = resized_size(height, width, short=short, long=long)
    factors = torch.tensor([wide / width, high / height] * 2)
    limits = torch.tensor([wide, high] * 2, dtype=torch.float32)
    return DetectionView(
        functional.resize(view.image, [high, wide], interpolation=InterpolationMode.BILINEAR, antialias=False),
        torch.minimum(view.boxes * factors, limits),
        view.kept,
        view.rows[torch.arange(high) * height // high],
        view.columns[torch.arange(wide) * width // wide],
    )


def crop(view: DetectionView, *, top: int, left: int, height: int, width: int) -> DetectionView:
    """A part of the image; objects whose box has no area inside are removed, the others' boxes are clipped."""
    boxes = view.boxes - torch.tensor([left, top] * 2, dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height] * 2, dtype=torch.float32))
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return DetectionView(
        view.image[..., top : top + height, left : left + width],
        boxes[inside],
        view.kept[inside],
        view.rows[top : top + height],
        view.columns[left : left + width],
    )


class MultiScale:
    """Flip, then one of two policies: resize; or resize, random crop, resize.

    Random numbers come from torch's global generator.

    Args:
        min_sizes: short sides, one drawn for each image.
        max_size: largest long side.
        hflip: probability of a flip.
        crop_probability: of the second policy.
        crop_resize_sizes: short sides before the crop, one drawn.
        crop_size: smallest and largest side of the crop; height and width are drawn apart, both ends included, and
            are at most the image's.
    """

    def __init__(
        self,
        *,
        min_sizes: Sequence[int],
        max_size: int,
        hflip: float,
        crop_probability: float,
        crop_resize_sizes: Sequence[int],
        crop_size: tuple[int, int],
    ) -> None:
        self.min_sizes = tuple(min_sizes)
        self.max_size = max_size
        self.hflip = hflip
        self.crop_probability = crop_probability
        self.crop_resize_sizes = tuple(crop_resize_sizes)
        self.crop_size = crop_size

    def __call__(self, image: Tensor, boxes: Tensor) -> DetectionView:
        """Draw a view.

        Args:
            image: uint8 (3, H, W).
            boxes: float32 (N, 4), x0 y0 x1 y1 in pixels.
        """
        view = original_view(image, boxes)
        if float(torch.rand(())) < self.hflip:
            view = flip(view)
        if float(torch.rand(())) < self.crop_probability:
            view = self._random_crop(resize(view, short=_choice(self.crop_resize_sizes), long=self.max_size))
        return resize(view, short=_choice(self.min_sizes), long=self.max_size)

    def _random_crop(self, view: DetectionView) -> DetectionView:
        height, width = view.image.shape[-2:]
        low, high = self.crop_size
        crop_height, crop_width = (_integer(min(side, low), min(side, high)) for side in (height, width))
        top, left = _integer(0, height - crop_height), _integer(0, width - crop_width)
        return crop(view, top=top, left=left, height=crop_height, width=crop_width)


def _integer(low: int, high: int) -> int:
    """A uniform integer, both ends included."""
    return int(torch.randint(low, high + 1, ()))


def _choice(values: Sequence[int]) -> int:
    return values[_integer(0, len(values) - 1)]
