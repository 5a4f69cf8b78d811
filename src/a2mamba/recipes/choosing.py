"""Choosing a recipe for a folder that nobody has described: what is in it, how much of it, and what fits that."""

from __future__ import annotations

from pathlib import Path

from a2mamba.data.names import some
from a2mamba.recipes.choice import Choice, Layout, Wishes
from a2mamba.recipes.choosing_classes import CLASS_FOLDERS
from a2mamba.recipes.choosing_scenes import SCENES

LAYOUTS: tuple[Layout, ...] = (CLASS_FOLDERS, *SCENES)


def choose_run(root: Path, wishes: Wishes | None = None, *, device: str) -> Choice:
    """Recognize the layout of a folder and choose a recipe for it, with numbers that fit its size.

    Args:
        root: the data set.
        wishes: what is not to be chosen.
        device: where it will be trained.

    Raises:
        ValueError: the folder does not exist or has no layout that is known here, or its data cannot be trained on.
    """
    if not root.is_dir():
        raise ValueError(f"data folder {root} does not exist or is not a folder; check the path")
    for layout in LAYOUTS:
        if layout.recognize(root):
            return layout.choose(root, wishes or Wishes(), device)
    known = "; ".join(f"{layout.name}: {layout.expected}" for layout in LAYOUTS)
    found = sorted(entry.name for entry in root.iterdir())
    raise ValueError(f"{root} holds {some(found) if found else 'nothing'}, which is no known layout ({known})")
