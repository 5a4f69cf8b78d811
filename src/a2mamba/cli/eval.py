"""`a2mamba eval RECIPE --checkpoint F`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say, without_load_notes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "A training checkpoint of ours brings its configuration along; key=value changes it, data.root say.\n"
        "Examples: a2mamba eval digits --checkpoint runs/digits/checkpoints/best.pt\n"
        "          a2mamba eval folder --checkpoint a2mamba_tiny.pth model.name=a2mamba_tiny data.root=/data/imagenet"
    )
    parser.add_argument("recipe", help="the recipe that the checkpoint was trained with, or whose data to use")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, typed")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights: EMA weights are preferred")
    parser.add_argument("--confusion", type=Path, metavar="FILE", help="write the confusion matrix as JSON")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; metrics in percent on stdout."""
    from a2mamba.data import class_names, eval_loader
    from a2mamba.engine import replace_text
    from a2mamba.evaluation import ConfusionMatrix, TopK
    from a2mamba.recipes import find_recipe
    from a2mamba.recipes.classification import evaluate, load_trained, read_trained
    from a2mamba.recipes.overrides import apply_overrides

    recipe = find_recipe(arguments.recipe)
    trained = read_trained(arguments.checkpoint)
    if trained is not None and trained.recipe != arguments.recipe:
        raise ValueError(
            f"{arguments.checkpoint} was trained with the recipe {trained.recipe!r}; "
            f"use: a2mamba eval {trained.recipe} --checkpoint {arguments.checkpoint}"
        )
    config = apply_overrides(recipe() if trained is None else trained.run, arguments.overrides)
    classes = class_names(config.data.root, config.data.val_split) if trained is None else trained.classes
    device = choose_device(arguments.device)
    with without_load_notes():
        model, report = load_trained(config, arguments.checkpoint, classes=classes, device=device)
    matrix = ConfusionMatrix(len(classes))
    loader = eval_loader(config.data, classes=classes)
    results = dict(evaluate(model, config, loader, [TopK(), matrix], device=device))
    if arguments.confusion is not None:
        replace_text(arguments.confusion, json.dumps({"classes": classes, "matrix": matrix.matrix.tolist()}))
    say(report)
    if arguments.json:
        print_json({"checkpoint": str(arguments.checkpoint), "images": int(matrix.matrix.sum()), **results})
    else:
        print_table(("metric", "value"), [(name, f"{value:.3f}") for name, value in results.items()])
    return 0
