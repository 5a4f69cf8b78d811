"""What tests share: stored reference numbers, the rule that makes the weights and inputs behind them, measures."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import a2mamba
from a2mamba.backbone import Pyramid
from a2mamba.ops import dispatch

DATA = Path(__file__).parent / "assets"

needs_numba = pytest.mark.skipif(not dispatch.HAS_NUMBA, reason="numba is not installed")


def need_onnx() -> None:
    """Skip what asks where ONNX files cannot be written and run: the extra ``export``."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)


def stored(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a file of reference numbers."""
    with np.load(DATA / f"{name}.npz") as file:
        return dict(file)


@cache
def released_layout() -> dict[str, dict[str, list[int]]]:
    """Return model -> (tensor of a released checkpoint -> its shape)."""
    return json.loads((DATA / "released_layout.json").read_text())


@cache
def released_segmenter(name: str) -> dict[str, list[int]]:
    """Return every tensor of a released SegMAN network for ADE20K -> its shape."""
    encoder = released_layout()[name.replace("segman_", "segman_encoder_")]
    body = {f"backbone.{key}": shape for key, shape in encoder.items() if not key.startswith("classifier.")}
    decoders: dict[str, dict[str, list[int]]] = json.loads((DATA / "released_decoders.json").read_text())
    return body | decoders[name]


def _stream(name: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()), 0])


def normal(name: str, *shape: int) -> Tensor:
    """Return standard normal float32 numbers that depend on the name alone."""
    return torch.from_numpy(_stream(name).standard_normal(shape).astype(np.float32))


def reference_tensor(name: str, shape: list[int]) -> Tensor:
    """Return the value that the reference runs gave to a checkpoint's tensor, by its name and shape."""
    stream = _stream(name)
    z = stream.standard_normal(shape).astype(np.float32)
    u = stream.random(shape).astype(np.float32)
    leaf = name.split(".")[-1]
    if leaf == "running_var":
        value = 0.5 + u
    elif leaf == "running_mean" or (leaf == "bias"):
        value = 0.1 * z
    elif leaf == "A_logs":
        value = 0.5 * z
    elif leaf == "dt_projs_bias":
        value = -6.9 + 4.65 * u
    elif ".rpb." in name:
        value = 0.3 * z
    elif "layer_scale" in name:
        value = 0.5 + 0.5 * u
    elif leaf == "Ds" or len(shape) == 1:
        value = 1.0 + 0.1 * z
    else:
        gain = 0.3 if shape[1] == 1 else 0.8
        value = gain * z / np.sqrt(np.prod(shape[1:]), dtype=np.float32)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def reference_state(model: str) -> dict[str, Tensor]:
    """Return the released-layout weights of the reference runs; A2Mamba's branches share one bias table."""
    share = model.startswith("a2mamba")
    return {
        name: reference_tensor(name.replace(".rpb.1", ".rpb.0") if share else name, shape)
        for name, shape in released_layout()[model].items()
        if not name.endswith(("rope.angle", "num_batches_tracked"))
    }


@cache
def reference_segmenter_state(name: str) -> dict[str, Tensor]:
    """Return the released-layout weights of a SegMAN network's reference run; do not change them."""
    return {
        key: reference_tensor(key, shape)
        for key, shape in released_segmenter(name).items()
        if not key.endswith(("rope.angle", "num_batches_tracked"))
    }


def reference_images(batch: int, height: int, width: int) -> Tensor:
    """Return the input of the reference runs, (batch, 3, height, width) float32."""
    stream = np.random.default_rng([2507, 16624, batch, height, width, 0])
    return torch.from_numpy(stream.standard_normal((batch, 3, height, width)).astype(np.float32))


@cache
def reference_model(name: str) -> Pyramid:
    """Return a backbone in eval mode with the weights of the reference runs; do not change it."""
    model = uninitialized(name).eval()
    a2mamba.load_checkpoint(model, reference_state(name))
    return model


def uninitialized(name: str) -> Pyramid:
    """Return a backbone whose parameters hold no values yet: much faster to make than one with initial values."""
    model = a2mamba.create_model(name, device="meta")
    model.to_empty(device="cpu")
    return model


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest expected value."""
    if expected.numel() == 0:
        return 0.0
    difference = (actual.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp(min=1e-12))


def norm_error(found: Tensor, expected: Tensor, *, floor: float = 1e-2) -> float:
    """Return the error relative to the norm of what is expected, or to ``floor`` an element where it is about zero."""
    if not expected.numel():
        return 0.0
    expected = expected.double()
    return float((found.double() - expected).norm() / max(float(expected.norm()), floor * expected.numel() ** 0.5))


def poisoned_empty(*arguments: Any, _empty: Callable[..., Tensor] = torch.empty, **options: Any) -> Tensor:
    """Return torch.empty full of NaN: what a kernel forgets to write shows."""
    out = _empty(*arguments, **options)
    return out.fill_(float("nan")) if out.is_floating_point() else out
