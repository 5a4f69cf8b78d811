"""The loss of semantic segmentation."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from a2mamba.segmentation.conv import resize

IGNORE_INDEX = 255


def pixel_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORE_INDEX,
    average: Literal["all", "valid"] = "all",
) -> Tensor:
    """Return the cross-entropy of logits that are resized, bilinearly, to the size of the labels.

    Args:
        logits: (B, classes, h, w) of any stride, any floating dtype; the loss is computed in float32 at least.
        targets: (B, H, W) int64, class indices or ``ignore_index``.
        ignore_index: label of pixels without a loss.
        average: over "all" pixels, ignored ones in the denominator, as in the papers' runs (mmsegmentation's default),
            or over the "valid" ones; without a valid pixel that is 0.

    Returns:
        A scalar, nats a pixel.

    Raises:
        ValueError: if the shapes do not match, or ``average`` is something else.
    """
    if logits.dim() != 4 or targets.dim() != 3 or len(logits) != len(targets):
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}: "
            "expected (B, classes, h, w) and (B, H, W)"
        )
    if average not in ("all", "valid"):
        raise ValueError(f"average={average!r}: expected 'all' or 'valid'")
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    enlarged = resize(logits, (targets.shape[1], targets.shape[2]))
    total = F.cross_entropy(enlarged, targets, ignore_index=ignore_index, reduction="sum")
    if average == "all":
        return total / targets.numel()
    return total / (targets != ignore_index).sum().clamp(min=1)
