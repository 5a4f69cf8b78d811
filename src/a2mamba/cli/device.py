"""The --device option."""

from __future__ import annotations

import argparse


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device to a command."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps, ...; auto (default) takes a GPU if any"
    )


def choose_device(name: str) -> str:
    """Return the device that --device means; ValueError if it does not exist here."""
    from a2mamba.engine.device import choose_device

    return choose_device(name)
