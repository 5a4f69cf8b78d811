"""What an exported file computes: a network with what stands before and behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from a2mamba.backbone import Pyramid
from a2mamba.detection import Detector
from a2mamba.export.detections import Padded, detection_names, own_detections
from a2mamba.segmentation import Segmenter

OutputName = Literal["logits", "class_map", "features", "detections"]


class Served(nn.Module):
    """A network that takes normalized images (B, C, H, W), or pixels, and returns tensors.

    Args:
        network: a backbone with or without a classifier, a feature extractor, a segmenter or a detector.
        output: "logits" (B, classes) or (B, classes, H, W); "class_map", int64 (B, H, W), of segmenters; "features",
            the maps of a backbone's stages, first the largest; "detections", those of `export.detections.Padded`.
        mean, std: of each channel, for values in [0, 1].
        pixels: take uint8 (B, H, W, C) and normalize it, instead of normalized images.
        detect: how detections are computed, one of the functions of `export.detections`.

    Raises:
        ValueError: the network has no such output.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        output: OutputName,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        pixels: bool,
        detect: Callable[[Detector, Tensor], Padded] = own_detections,
    ) -> None:
        super().__init__()
        possible = outputs_of(network)
        if output not in possible:
            raise ValueError(f"output {output!r}: a {type(network).__name__} has {' or '.join(map(repr, possible))}")
        self.network = network
        self.output = output
        self.pixels = pixels
        self.detect = detect
        self.register_buffer("mean", torch.tensor(mean)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None] * 255, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, one or several."""
        if self.pixels:
            images = (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        if self.output == "features" and isinstance(self.network, Pyramid):
            return tuple(self.network.forward_intermediates(images, intermediates_only=True))
        if isinstance(self.network, Detector):
            return self.detect(self.network, images).outputs()
        result = self.network(images)
        if self.output == "class_map":
            return (result.argmax(1),)
        return tuple(result) if self.output == "features" else (result,)


def outputs_of(network: nn.Module) -> tuple[OutputName, ...]:
    """Return the outputs that a network can be exported with, the usual one first.

    Raises:
        ValueError: a network that is not of this package.
    """
    if isinstance(network, Detector):
        return ("detections",)
    if isinstance(network, Segmenter):
        return ("logits", "class_map")
    if isinstance(network, Pyramid):
        return ("logits", "features")
    if hasattr(network, "feature_info"):
        return ("features",)
    raise ValueError(
        f"{type(network).__name__} is no classifier, feature extractor, segmenter or detector of this package"
    )


def output_names(served: Served, count: int) -> list[str]:
    """Return the names of the file's outputs."""
    if isinstance(served.network, Detector):
        return detection_names(served.network)
    return [f"features_{i}" for i in range(count)] if served.output == "features" else [served.output]
