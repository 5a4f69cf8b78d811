"""Semantic segmentation: batches to losses of every head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from a2mamba.segmentation import pixel_cross_entropy


class LabeledMaps(Protocol):
    """What the task reads of a batch."""

    @property
    def images(self) -> Tensor:
        """Images (B, 3, H, W), as ``prepare`` takes them."""
        ...

    @property
    def targets(self) -> Tensor:
        """Class maps (B, H, W), integers; 255 is ignored."""
        ...

    @property
    def paths(self) -> list[str]:
        """B file names."""
        ...


class SegmentationLosses:
    """Cross-entropy of the decoder and, where the model has one, of its auxiliary head.

    Args:
        model: a segmenter; its heads' logits are taken at their own strides.
        prepare: batch -> the network's images, float32 (B, 3, H, W); None: the batch's own.
        weights: factor of each head's loss; a head that is not named counts 1.
        average: see :func:`a2mamba.segmentation.pixel_cross_entropy`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        prepare: Callable[[Any], Tensor] | None = None,
        weights: Mapping[str, float] | None = None,
        average: Literal["all", "valid"] = "all",
    ) -> None:
        self.model = model
        self.prepare = prepare
        self.weights = dict(weights or {})
        self.average: Literal["all", "valid"] = average

    def losses(self, batch: LabeledMaps, progress: object) -> dict[str, Tensor]:
        """Return {head: scalar}, each a mean over the batch's pixels times its weight; ``progress`` changes nothing."""
        images = batch.images if self.prepare is None else self.prepare(batch)
        targets = batch.targets.long()
        heads: dict[str, Tensor] = self.model(images, all_heads=True, native_resolution=True)
        return {
            name: self.weights.get(name, 1.0) * pixel_cross_entropy(logits, targets, average=self.average)
            for name, logits in heads.items()
        }

    def batch_size(self, batch: LabeledMaps) -> int:
        """Return the number of images."""
        return len(batch.targets)

    def describe(self, batch: LabeledMaps) -> list[str]:
        """Return the file names of the images."""
        return list(batch.paths)
