"""An exported file in the place of the network that it was written from: the same calls, run by the file's runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from a2mamba.export.format import Run
from a2mamba.export.formats import FORMATS
from a2mamba.files import read_json

SUFFIXES = tuple(each.suffix for each in FORMATS.values())


@dataclass(frozen=True)
class Sidecar:
    """What the JSON file beside an exported file says, checked."""

    format: str
    outputs: list[str]
    size: tuple[int, int]
    mean: list[float]
    std: list[float]
    classes: list[str]
    pixels: bool
    run: dict[str, Any]
    """of the network, as `a2mamba.recipes.describe` writes it"""
    best: dict[str, Any] | None


def read_sidecar(path: Path) -> Sidecar:
    """Return what stands beside an exported file.

    Raises:
        ValueError: it is missing or damaged, or the file was written of a network without a run.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ValueError(f"{path}: {beside.name}, which `a2mamba export` writes beside it, is missing; copy it there")
    content = read_json(beside)
    if "run" not in content:
        raise ValueError(f"{beside} does not say how images are prepared; export with a2mamba.load(...).export(...)")
    try:
        name, size = content["format"], [int(side) for side in content["size"]]
        mean, std = ([float(x) for x in content[key]] for key in ("mean", "std"))
        classes, outputs = ([str(x) for x in content[key]] for key in ("classes", "outputs"))
        run, best, pixels = dict(content["run"]), content.get("best"), not content["input"]["normalized"]
        fits = FORMATS[name].suffix == path.suffix and len(size) == 2 and min(size) > 0 and min(std) > 0
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{beside} is damaged: {type(error).__name__}: {error}") from None
    if not fits or not (best is None or isinstance(best, dict)):
        raise ValueError(f"{beside} is damaged, or does not belong to {path.name}; export the network again")
    return Sidecar(name, outputs, (size[0], size[1]), mean, std, classes, pixels, run, best)


def open_exported(path: Path, sidecar: Sidecar) -> nn.Module:
    """Return a module that is called as the network was, and lets the file's runtime compute, on the CPU.

    Raises:
        ValueError: a file that cannot be run, or returns nothing that predictions are made of.
        ImportError: its runtime is not installed.
    """
    if path.suffix == FORMATS["pt2"].suffix:
        raise ValueError(
            f"{path}: reading a .pt2 file can run code that is in it, so this does not; docs/export.md says how to run "
            "your own, or export to .onnx"
        )
    kind, possible = _KINDS.get(sidecar.run.get("task", ""), (None, ()))
    if kind is None or not sidecar.outputs or sidecar.outputs[0] not in possible:
        raise ValueError(f"{path} returns {', '.join(sidecar.outputs)}, of which no predictions are made")
    made = FORMATS[sidecar.format]
    made.check_installed()
    reason = made.not_here()
    if reason is not None:
        raise ValueError(f"{path} cannot be run: {reason}")
    try:
        run = made.load(path, torch.get_num_threads())
    except Exception as error:  # every runtime has its own
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{path} cannot be run: {said[0]}") from None
    return kind(run, sidecar)


class _File(nn.Module):
    """A file that is run, and how its input is made.

    Args:
        run: the file.
        sidecar: what it takes and returns.
    """

    def __init__(self, run: Run, sidecar: Sidecar) -> None:
        super().__init__()
        self._run = run
        self.sidecar = sidecar
        self._mean, self._std = (torch.tensor(x)[:, None, None] for x in (sidecar.mean, sidecar.std))
        self.eval()

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name for normalized images (B, C, H, W) of the file's size."""
        if self.sidecar.pixels:
            values = ((images * self._std + self._mean) * 255).round().clamp(0, 255)
            images = values.to(torch.uint8).permute(0, 2, 3, 1)
        outputs = self._run(np.ascontiguousarray(images.numpy()))
        return {name: torch.from_numpy(x) for name, x in zip(self.sidecar.outputs, outputs, strict=True)}

    def resized(self, images: Tensor) -> Tensor:
        """Return images (B, C, h, w) in the file's size."""
        if images.shape[2:] == self.sidecar.size:
            return images
        return F.interpolate(images, self.sidecar.size, mode="bilinear", align_corners=False, antialias=True)


class _Classifier(_File):
    """Normalized images (B, C, h, w) -> logits (B, classes)."""

    def forward(self, images: Tensor) -> Tensor:
        return self.run(self.resized(images))["logits"]


class _Segmenter(_File):
    """Normalized images (B, C, h, w) -> logits (B, classes, H, W) of the file's size; of class maps, 0 and 1."""

    def forward(self, images: Tensor, *, native_resolution: bool) -> Tensor:
        found = self.run(self.resized(images))
        if "logits" in found:
            return found["logits"]
        return F.one_hot(found["class_map"], len(self.sidecar.classes)).permute(0, 3, 1, 2).float()


class _Detector(_File):
    """Images (C, h, w) in [0, 1] of any sizes -> detections of each, as a detector's with ``paste=False``.

    Images keep their shape; what the file's size leaves over, right and below, is filled with the mean color.
    """

    def forward(self, images: Sequence[Tensor], *, paste: bool) -> list[dict[str, Tensor]]:
        assert not paste, "masks stay in the cells of their boxes"
        height, width = self.sidecar.size
        batch, sizes = [], []
        for image in images:
            old = image.shape[1:]
            scale = min(height / old[0], width / old[1])
            new = [max(1, min(math.floor(old[i] * scale + 0.5), self.sidecar.size[i])) for i in range(2)]
            image = F.interpolate(image[None], new, mode="bilinear", align_corners=False)[0]
            image = F.pad((image - self._mean) / self._std, (0, width - new[1], 0, height - new[0]))
            batch.append(image)
            sizes.append(new)
        outputs = self.run(torch.stack(batch))
        detections = []
        for i, (image, new) in enumerate(zip(images, sizes, strict=True)):
            count = int(outputs["count"][i])
            found = {name: values[i, :count] for name, values in outputs.items() if name != "count"}
            back = torch.tensor([image.shape[2] / new[1], image.shape[1] / new[0]]).repeat(2)
            found["boxes"] = clip_boxes_to_image(found["boxes"], (new[0], new[1])) * back
            if "masks" in found:
                found["masks"] = found["masks"][:, None]
            detections.append(found)
        return detections


_KINDS: dict[str, tuple[type[_File], tuple[str, ...]]] = {
    "classification": (_Classifier, ("logits",)),
    "segmentation": (_Segmenter, ("logits", "class_map")),
    "detection": (_Detector, ("boxes",)),
}
"""By the run's task: what is called, and the first output of its files"""
