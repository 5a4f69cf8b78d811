"""What a choice of a recipe is made from and consists of; `choosing` makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from a2mamba.tasks import AnyRun


class Wishes(NamedTuple):
    """What is not to be chosen.

    Args:
        model: the backbone, segmentation network or detector; None: nano on a CPU, tiny elsewhere.
        checkpoint: weights to begin with; None: the released ones, downloaded once.
        scratch: begin with random weights instead.
        epochs: None: by the number of images.
    """

    model: str | None = None
    checkpoint: Path | None = None
    scratch: bool = False
    epochs: int | None = None


class Choice(NamedTuple):
    """A recipe for a folder. reasons: one line for each thing that was decided, with why."""

    recipe: str
    run: AnyRun
    reasons: list[str]

    def lines(self) -> list[str]:
        """What was chosen and why, for a person."""
        return [f"recipe {self.recipe}", *(f"  {reason}" for reason in self.reasons)]


class Layout(NamedTuple):
    """A kind of folder that `choose_run` has a recipe for."""

    name: str
    expected: str
    """the shape of its folders, for messages"""
    recognize: Callable[[Path], bool]
    choose: Callable[[Path, Wishes, str], Choice]
    """(folder, wishes, device) -> choice"""
