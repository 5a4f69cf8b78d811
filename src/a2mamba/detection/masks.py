"""Masks between the image and the square grid of a box: training targets, and predictions put back in their place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from a2mamba.ops.precision import without_autocast

PIXELS_AT_A_TIME = 2**25
"""Pixels of true masks that are held as numbers of 32 bits."""


@torch.no_grad()
def mask_targets(
    masks: Tensor, boxes: Tensor, objects: Tensor, size: int, *, aligned: bool, threshold: float | None
) -> Tensor:
    """Sample the true masks in boxes.

    Args:
        masks: (M, H, W), uint8 or bool.
        boxes: (P, 4) in pixels of the masks.
        objects: (P,) int64, which mask each box looks at.
        size: S, cells an axis.
        aligned: sample with the half-pixel shift.
        threshold: targets are 1 from this coverage of a cell on, else 0; None returns the coverage.

    Returns:
        (P, S, S) float32.
    """
    out = torch.zeros(len(boxes), size, size, device=masks.device)
    step = max(1, PIXELS_AT_A_TIME // max(1, masks.shape[-1] * masks.shape[-2]))
    for start in range(0, len(masks) if len(boxes) else 0, step):
        some = masks[start : start + step]
        chosen = ((objects >= start) & (objects < start + len(some))).nonzero().squeeze(1)
        rois = torch.cat(((objects[chosen] - start)[:, None].float(), boxes[chosen].float()), dim=1)
        out[chosen] = roi_align(some[:, None].float(), rois, size, aligned=aligned)[:, 0]
    return out if threshold is None else (out >= threshold).float()


def _axis_weights(start: Tensor, stop: Tensor, cells: int, first: int, last: int) -> Tensor:
    """Return (last - first, cells): how pixel centers mix the cells of [start, stop], linearly, and 0 beyond them."""
    pixels = torch.arange(first, last, device=start.device) + 0.5
    position = (pixels - start) / (stop - start).clamp(min=1e-6) * cells - 0.5
    return (1 - (position[:, None] - torch.arange(cells, device=start.device)).abs()).clamp(min=0)


def _reach(start: float, stop: float, cells: int, length: int) -> tuple[int, int]:
    """Return the pixels [first, last) of an axis that a mask reaches: half a cell beyond its box."""
    margin = (stop - start) / cells / 2 + 0.5
    first = min(max(0, math.floor(start - margin)), length)
    return first, max(first, min(length, math.ceil(stop + margin)))


@torch.no_grad()
def iter_masks(
    probabilities: Tensor, boxes: Tensor, size: Sequence[int], *, paste: Literal["grid", "box"] = "grid"
) -> Iterator[Tensor]:
    """Yield each mask in its place in the image, (H, W) float32, one at a time: for many masks of a large image.

    Args:
        probabilities: (N, 1, S, S), of the cells of the boxes.
        boxes: (N, 4) in pixels of the image.
        size: (H, W) of the image.
        paste: "grid": bilinear at the image's pixel centers, as mmdetection; "box": resized to an integer box that is
            one cell larger a side, as torchvision.
    """
    height, width = size
    if paste == "box":
        for i in range(len(boxes)):
            yield paste_masks_in_image(probabilities[i : i + 1].float(), boxes[i : i + 1].clone(), (height, width))[
                0, 0
            ]
        return
    cells = probabilities.shape[-1]
    boxes = boxes.float()
    for mask, box, (x0, y0, x1, y1) in zip(probabilities[:, 0].float(), boxes, boxes.tolist(), strict=True):
        (top, bottom), (left, right) = _reach(y0, y1, cells, height), _reach(x0, x1, cells, width)
        with without_autocast(mask):
            # Bilinear sampling on a grid parallel to the axes is one thin product an axis.
            rows = _axis_weights(box[1], box[3], cells, top, bottom)
            columns = _axis_weights(box[0], box[2], cells, left, right)
            pasted = mask.new_zeros(height, width)
            pasted[top:bottom, left:right] = rows @ mask @ columns.T
        yield pasted


def paste_masks(
    probabilities: Tensor,
    boxes: Tensor,
    size: Sequence[int],
    *,
    threshold: float | None = None,
    paste: Literal["grid", "box"] = "grid",
) -> Tensor:
    """Put masks in their places in the image.

    Args:
        probabilities: (N, 1, S, S), of the cells of the boxes.
        boxes: (N, 4) in pixels of the image.
        size: (H, W) of the image.
        threshold: None returns probabilities; a number returns bool masks that are at least as probable, in a quarter
            of the memory.
        paste: see :func:`iter_masks`, which holds one mask at a time.

    Returns:
        (N, 1, H, W), float32 or bool.
    """
    dtype = torch.float32 if threshold is None else torch.bool
    out = torch.zeros(len(boxes), 1, *size, dtype=dtype, device=boxes.device)
    for i, mask in enumerate(iter_masks(probabilities, boxes, size, paste=paste)):
        out[i, 0] = mask if threshold is None else mask >= threshold
    return out
