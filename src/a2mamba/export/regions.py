"""Two operators that detectors are exported with: suppression and pooling of a fixed number of boxes an image.

As operators of ours they hide what has no fixed shape (how many boxes are kept, how many belong to a level) from the
program; ONNX has both, NonMaxSuppression and RoiAlign, and needs no control flow for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from a2mamba.detection.heads import pool_boxes
from a2mamba.export.graph import constant, reshape
from a2mamba.ops.registration import register

SUPPRESSED = -1.0
"""Score of a box that is not there."""


def _suppress(boxes: Tensor, scores: Tensor, iou: float, most: int) -> Tensor:
    kept = torch.full_like(scores, SUPPRESSED)
    for out, box, score in zip(kept, boxes, scores, strict=True):
        there = (score >= 0).nonzero().squeeze(1)
        chosen = there[nms(box[there], score[there], iou)[:most]]
        out[chosen] = score[chosen]
    return kept


def _pool(
    levels: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    return pool_boxes(levels, list(boxes), strides, size=size, sampling_ratio=sampling_ratio, aligned=aligned)


def _fake_pool(levels: Sequence[Tensor], boxes: Tensor, strides: Sequence[int], size: int, *_: Any) -> Tensor:
    return levels[0].new_empty(boxes.shape[0] * boxes.shape[1], levels[0].shape[1], size, size)


suppress = register(
    "a2mamba::suppress_boxes",
    "(Tensor boxes, Tensor scores, float iou, int most) -> Tensor",
    _suppress,
    lambda boxes, scores, iou, most: torch.empty_like(scores),
)
"""Scores (G, N) of boxes (G, N, 4), SUPPRESSED but for the best of each group that overlap no better one by more than
``iou``, at most so many; boxes of a negative score are not there."""

pool = register(
    "a2mamba::pool_boxes",
    "(Tensor[] levels, Tensor boxes, int[] strides, int size, int sampling_ratio, bool aligned) -> Tensor",
    _pool,
    _fake_pool,
)
"""Boxes (B, N, 4) -> features (B N, C, size, size), as `a2mamba.detection.heads.pool_boxes`."""


def suppress_graph(boxes: Any, scores: Any, iou: float, most: int) -> Any:
    """`suppress` of values of a graph."""
    from onnxscript import opset18 as op

    selected = op.NonMaxSuppression(
        boxes,
        op.Unsqueeze(scores, constant(np.array([1]))),
        constant(np.array([most])),
        constant(np.array([iou], np.float32)),
        constant(np.array([SUPPRESSED / 2], np.float32)),
    )
    index = op.Gather(selected, constant(np.array([0, 2])), axis=1)
    nothing = op.Expand(constant(np.float32(SUPPRESSED)), op.Shape(scores))
    return op.ScatterND(nothing, index, op.GatherND(scores, index))


def pool_graph(
    levels: Sequence[Any], boxes: Any, strides: Sequence[int], size: int, sampling_ratio: int, aligned: bool
) -> Any:
    """`pool` of values of a graph."""
    from onnxscript import opset18 as op

    count = int(boxes.shape[1])
    one = constant(np.int64(1))
    image = op.Range(constant(np.int64(0)), reshape(op.Shape(boxes, start=0, end=1)), one)
    image = reshape(op.Add(reshape(image, -1, 1), constant(np.zeros((1, count), np.int64))), -1)
    rois = reshape(boxes, -1, 4)
    which = _levels(rois, strides)
    chosen, pooled = [], []
    for i, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        index = reshape(op.NonZero(op.Equal(which, constant(np.int64(i)))), -1)
        chosen.append(index)
        pooled.append(
            op.RoiAlign(
                level,
                op.Gather(rois, index),
                op.Gather(image, index),
                output_height=int(size),
                output_width=int(size),
                sampling_ratio=int(sampling_ratio),
                spatial_scale=1 / stride,
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            )
        )
    if len(levels) == 1:
        return pooled[0]
    # The boxes come level by level; the places that they came from, sorted, say where each of them is now.
    order = op.Concat(*chosen, axis=0)
    places = op.Range(constant(np.int64(0)), op.Size(order), one)
    return op.Gather(op.Concat(*pooled, axis=0), op.ScatterElements(order, order, places))


def _levels(rois: Any, strides: Sequence[int]) -> Any:
    """The level of boxes (N, 4), as `a2mamba.detection.boxes.box_levels`: how many bounds the side reaches."""
    from onnxscript import opset18 as op

    x0, y0, x1, y1 = op.Split(rois, axis=1, num_outputs=4)
    side = op.Sqrt(op.Mul(op.Sub(x1, x0), op.Sub(y1, y0)))
    # Torchvision adds 1e-6 to the logarithm before it rounds down.
    bounds = np.array([14 * stride * 2 ** (-1e-6) for stride in strides[1:]], np.float32)
    reached: Any = op.Cast(op.GreaterOrEqual(side, constant(bounds)), to=7)
    return op.ReduceSum(reached, constant(np.array([1])), keepdims=0)
