"""What a file format has to do: write a program, and run the file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn
from torch.export import ExportedProgram

INPUT = "images"

Run = Callable[[np.ndarray], list[np.ndarray]]
"""From the input to the outputs of a file, on so many threads as it was loaded for."""


class Format(ABC):
    """One way to write a program down."""

    suffix: ClassVar[str]
    """of the file that is loaded"""
    free_batch: ClassVar[bool] = True
    """whether files take any number of images, instead of one"""

    @abstractmethod
    def check_installed(self) -> None:
        """ImportError, with what to install, where something is missing."""

    def prepare(self, network: nn.Module) -> nn.Module:
        """Return a network in eval mode in the form that is to be traced for this format; itself is not changed."""
        return network

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path, outputs: Sequence[str]) -> None:
        """Write a program, its input named ``INPUT``; files beside ``path`` have its stem."""

    @abstractmethod
    def load(self, path: Path, threads: int) -> Run:
        """Return what runs the file on the CPU."""

    def not_here(self) -> str | None:
        """Return why files cannot be run on this machine; None: they can."""
        return None

    def describe(self, path: Path) -> dict[str, Any]:
        """Return what is to be said about the file, for people and the sidecar."""
        return {}


def need(extra: str, *packages: str) -> None:
    """Raise ImportError, with what to install, where a package is missing."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f'{", ".join(missing)} is not installed: pip install "a2mamba[{extra}]"')
