"""Recipes: documented functions that return a run; training one, and saying what that would cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from a2mamba.near_names import did_you_mean
from a2mamba.recipes import detection, imagenet, own_data, segmentation
from a2mamba.recipes.dry_run import DryRun, dry_run
from a2mamba.recipes.stored import Checkpoint, Trained, describe, parse_run, read_checkpoint
from a2mamba.recipes.training import Resume, train
from a2mamba.tasks import AnyRun, ClassificationRun, DetectionRun, SegmentationRun

CLASSIFICATION: dict[str, Callable[..., ClassificationRun]] = {
    "digits": own_data.digits,
    "digits_full": own_data.digits_full,
    "finetune": own_data.finetune,
    "folder": own_data.folder,
    "in1k_nano": imagenet.in1k_nano,
    "in1k_tiny": imagenet.in1k_tiny,
    "in1k_small": imagenet.in1k_small,
    "in1k_base": imagenet.in1k_base,
    "in1k_large": imagenet.in1k_large,
    "in1k_384_base": imagenet.in1k_384_base,
    "in1k_384_large": imagenet.in1k_384_large,
}

# Any: a caller knows by the run's task which of the three it has.
RECIPES: dict[str, Callable[..., Any]] = {**CLASSIFICATION, **segmentation.RECIPES, **detection.RECIPES}


def document(recipe: Callable[..., Any]) -> str:
    """Return the text of a recipe: source, command, hardware and time, what to expect."""
    return inspect.getdoc(recipe.func if isinstance(recipe, partial) else recipe) or ""


def find_recipe(name: str) -> Callable[..., Any]:
    """Return a recipe by name; ValueError for an unknown one, naming the nearest."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; {did_you_mean(name, RECIPES)}")
    return RECIPES[name]


def has_paper_form(name: str) -> bool:
    """Whether a recipe has two forms: what the authors' scripts run, and what the paper says."""
    return "paper" in inspect.signature(find_recipe(name)).parameters


def make_run(name: str, *, paper: bool = False) -> Any:
    """Return the run of a recipe, on request in the paper's form.

    Raises:
        ValueError: an unknown recipe, or one without a paper form.
    """
    recipe = find_recipe(name)
    if not paper:
        return recipe()
    if not has_paper_form(name):
        forms = ", ".join(name for name in RECIPES if has_paper_form(name))
        raise ValueError(f"recipe {name!r} has one form only; --paper is for {forms}")
    return recipe(paper=True)


__all__ = [
    "CLASSIFICATION",
    "RECIPES",
    "AnyRun",
    "Checkpoint",
    "ClassificationRun",
    "DetectionRun",
    "DryRun",
    "Resume",
    "SegmentationRun",
    "Trained",
    "describe",
    "document",
    "dry_run",
    "find_recipe",
    "has_paper_form",
    "make_run",
    "parse_run",
    "read_checkpoint",
    "train",
]
