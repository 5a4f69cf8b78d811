"""Recipes: documented functions that return a run. The only place where models, data and engine meet."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from a2mamba.recipes import classification
from a2mamba.recipes.classification import ClassificationRun

RECIPES: dict[str, Callable[[], ClassificationRun]] = {
    "digits": classification.digits,
    "folder": classification.folder,
}


def find_recipe(name: str) -> Callable[[], ClassificationRun]:
    """Return a recipe by name; ValueError for an unknown one, naming the nearest."""
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(RECIPES)}"
        raise ValueError(f"unknown recipe {name!r}; {hint}")
    return RECIPES[name]


__all__ = ["RECIPES", "ClassificationRun", "find_recipe"]
