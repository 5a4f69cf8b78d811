"""The --device option."""

from __future__ import annotations

import argparse

import torch


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device to a command."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, ...; auto (default) takes a GPU if any"
    )


def choose_device(name: str) -> str:
    """Return the device that --device means; ValueError if it does not exist here."""
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # the meta device holds no values, so that nothing can be computed on it
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try --device cpu") from error
    return name
