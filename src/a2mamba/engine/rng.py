"""Random generators: seeding them for a step, and carrying their states through a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds Python's, numpy's and torch's global generators (CPU and devices) for one step of one process.

    The three numbers are mixed by numpy's SeedSequence, so that neighboring steps, ranks and seeds are unrelated.
    """
    words = np.random.SeedSequence([seed, step, rank]).generate_state(4)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))
    random.seed(int(words[2]))
    np.random.seed(int(words[3]))  # noqa: NPY002 - augmentation libraries draw from numpy's global generator


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of the same generators, as tensors and plain lists that `torch.load(weights_only=True)` accepts."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 - as above
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(),
    }


def rng_problem(state: dict[str, Any], own_device: torch.Tensor | None) -> list[str]:
    """Why `set_rng_state` could not restore a state, in a phrase; tried on generators that nobody uses.

    `own_device` is the state of this run's device now, None for the CPU.
    """
    try:
        version, words, gauss = state["python"]
        random.Random().setstate((version, tuple(words), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        np.random.RandomState().set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
        torch.Generator().set_state(state["torch"])
        if not isinstance(gauss, float | None) or not 0 <= position <= len(keys):
            return ["rng.python or rng.numpy is out of range"]
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        return [f"rng is not a state of the generators ({' '.join(str(error).split())[:80]})"]
    device = state["device"]
    if device is None or own_device is None:
        return [] if isinstance(device, torch.Tensor | None) else ["rng.device is not a tensor"]
    fits = type(device) is torch.Tensor and device.shape == own_device.shape and device.dtype == own_device.dtype
    return [] if fits else ["rng.device is not a state of this device's generator"]


@contextmanager
def seeded_cpu(seed: int) -> Iterator[None]:
    """Seeds the CPU's generator, and puts its state back after; those of other devices stay as they are.

    (`torch.random.fork_rng` without devices takes every GPU of the host, and warns where there are several.)
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def kept_rng(device: torch.device) -> Iterator[None]:
    """Puts the states of torch's generators, that of the CPU and that of the device, back after."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type="cuda" if device.type == "cpu" else device.type):
        yield


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores what `rng_state` returned; the device's generator only where the state was taken on such a device."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002 - as above
    torch.set_rng_state(state["torch"])
    if state["device"] is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state["device"])
