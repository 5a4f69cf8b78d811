"""A network into a file that runs elsewhere, checked by running it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from a2mamba.backbone import fuse_for_inference
from a2mamba.detection import Detector
from a2mamba.export.comparison import (
    PIXELS_THAT_DIFFER,
    Comparison,
    Difference,
    ExportError,
    compare,
    largest_difference,
    measure,
    torch_threads,
)
from a2mamba.export.detections import tensor_detections
from a2mamba.export.format import INPUT, Format
from a2mamba.export.formats import FORMATS
from a2mamba.export.matching import detections_difference
from a2mamba.export.plain import plain
from a2mamba.export.program import run_program, trace
from a2mamba.export.served import OutputName, Served, output_names, outputs_of
from a2mamba.files import replace_file, replace_text

THREADS = 2
BATCHES = (1, 3)
"""batches of random images that are compared"""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """A file that was written and compared."""

    path: Path
    sidecar: Path
    """JSON beside it: what it takes, what it returns, how it was checked"""
    comparison: Comparison
    description: dict[str, Any]
    """the content of the sidecar"""


def export_model(
    model: nn.Module,
    path: Path | str,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    classes: Sequence[str] = (),
    format: str | None = None,
    output: OutputName | None = None,
    pixels: bool = False,
    images: Sequence[np.ndarray] = (),
    tolerance: float = TOLERANCE,
    about: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a network as a file for another runtime, run the file beside the network, and keep it if both agree.

    Args:
        model: a classifier, feature extractor, segmenter or detector of ours in eval mode, float32; it is moved nowhere
            and not changed. What can be folded at inference is folded in the file.
        path: the file. A JSON file of the same stem is written beside it, of OpenVINO a .bin file, too.
        size: height and width that the file is for. The batch is free.
        mean, std: of each channel, for values in [0, 1]: how images are normalized.
        classes: names of the classes, for the sidecar.
        format: one of `FORMATS`; None: by the path's suffix.
        output: "logits", "class_map", "features" or "detections"; None: what the network is for, of a feature
            extractor its features.
        pixels: the file takes uint8 (B, H, W, C) and normalizes it, instead of normalized float32 (B, C, H, W).
        images: uint8 (H, W, C) of that size to compare on, beside random ones.
        tolerance: largest difference from the network, relative to the largest value of its output. Of class maps at
            most `PIXELS_THAT_DIFFER` of the pixels may differ, whatever this is.
        about: what else the sidecar is to say.

    Raises:
        ValueError: a network, size, format or output that does not fit.
        ImportError: the format needs a package that is not installed.
        ExportError: the file does not compute what the network does; it is not kept.
    """
    path = Path(path)
    name, writer = find_format(path, format)
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size={size}: expected height and width in pixels")
    output = outputs_of(model)[0] if output is None else output
    parameter = next(model.parameters())
    if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
        raise ValueError(f"the model is {parameter.dtype} on {parameter.device}; export takes float32 on the cpu")
    if isinstance(model, Detector) and any(side % model.config.size_divisor for side in size):
        raise ValueError(f"size={size}: a detector takes multiples of {model.config.size_divisor}, as it pads images")
    eager = Served(model, output, mean=mean, std=std, pixels=pixels)
    fused = Served(_fused(model), output, mean=mean, std=std, pixels=pixels, detect=tensor_detections)
    writer.check_installed()

    random = np.random.default_rng(0)
    shape = (*size, len(mean))
    batches = [random.integers(0, 256, (count, *shape), dtype=np.uint8) for count in BATCHES]
    for image in images:
        if image.dtype != np.uint8 or image.shape != shape:
            raise ValueError(f"an image of {image.dtype} {image.shape}: expected uint8 {shape}")
        batches.append(image[None].copy())  # PyTorch warns of memory that it may not write
    if not pixels:
        batches = [_normalized(batch, mean, std) for batch in batches]
    example = torch.from_numpy(batches[1 if writer.free_batch else 0])
    if not writer.free_batch:
        batches = [batch[i : i + 1] for batch in batches for i in range(len(batch))]

    def run_eager(batch: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [each.numpy() for each in eager(torch.from_numpy(batch))]

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder, torch_threads(THREADS):
        made = Path(folder) / path.name
        outputs = output_names(fused, len(run_eager(batches[0])))
        program = trace(writer.prepare(fused), example)
        writer.write(program, made, outputs)
        started, not_here = time.perf_counter(), writer.not_here()
        run = writer.load(made, THREADS) if not_here is None else run_program(plain(program).module())
        load_seconds = time.perf_counter() - started
        difference = compare(run, run_eager, batches, _difference_of(model, outputs, tolerance))
        limit = PIXELS_THAT_DIFFER if output == "class_map" else tolerance
        if not difference <= limit:
            raise ExportError(
                f"{path.name} differs from the network by {difference:.2g}, more than {limit:.2g}; it was not kept"
            )
        comparison = Comparison(difference, *measure(run, run_eager, batches[0]))
        files = sorted(Path(folder).iterdir(), key=lambda file: file == made)  # what the file refers to first
        description = {
            "format": name,
            "file": path.name,
            "bytes": sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()),
            **writer.describe(made),
            "input": _describe_input(size, len(mean), pixels, "batch" if writer.free_batch else 1),
            "outputs": outputs,
            "size": list(size),
            "mean": list(mean),
            "std": list(std),
            "classes": list(classes),
            **(about or {}),
            "difference": difference,
            "tolerance": limit,
            "images_compared": sum(map(len, batches)),
            "compared": "the file" if not_here is None else f"the program it was converted from; {not_here}",
            "load_seconds": round(load_seconds, 3),
            "milliseconds": {"threads": THREADS, "file": comparison.file_ms, "eager": comparison.eager_ms},
        }
        for file in files:
            target = path.with_name(file.name)
            if file.is_dir():  # which cannot replace another
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(file, target)
            else:
                replace_file(target, partial(shutil.move, file))
    sidecar = path.with_suffix(".json")
    replace_text(sidecar, json.dumps(description, indent=2, ensure_ascii=False))
    return Exported(path, sidecar, comparison, description)


def _fused(model: nn.Module) -> nn.Module:
    """The network with everything folded that can be; itself, where there is nothing or it is folded already."""
    try:
        return fuse_for_inference(model)
    except ValueError:
        return model


def _difference_of(model: nn.Module, outputs: Sequence[str], tolerance: float) -> Difference:
    """How a network's outputs are compared."""
    if not isinstance(model, Detector):
        return largest_difference
    least = model.config.roi.score_threshold

    def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
        each, other = (dict(zip(outputs, arrays, strict=True)) for arrays in (found, expected))
        return detections_difference(each, other, least_score=least, tolerance=tolerance)

    return difference


def find_format(path: Path, name: str | None) -> tuple[str, Format]:
    """Return the name and the format that is meant.

    Raises:
        ValueError: an unknown name or suffix, or a suffix of another format.
    """
    known = ", ".join(f"{each} ({made.suffix})" for each, made in FORMATS.items())
    if name is None:
        name = next((each for each, made in FORMATS.items() if made.suffix == path.suffix), None)
        if name is None:
            raise ValueError(f"{path}: no format is known by this suffix; expected one of {known}")
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; expected one of {known}")
    if path.suffix != FORMATS[name].suffix:
        raise ValueError(f"{path}: a file of format {name} must end in {FORMATS[name].suffix}")
    return name, FORMATS[name]


def _normalized(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W)."""
    values = (pixels / np.float32(255) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def _describe_input(size: tuple[int, int], channels: int, pixels: bool, batch: str | int) -> dict[str, Any]:
    shape = [batch, *size, channels] if pixels else [batch, channels, *size]
    return {"name": INPUT, "dtype": "uint8" if pixels else "float32", "shape": shape, "normalized": not pixels}
