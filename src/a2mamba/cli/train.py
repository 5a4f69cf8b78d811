"""`a2mamba train RECIPE [key=value ...]`."""

from __future__ import annotations

import argparse
import inspect
import os
from pathlib import Path

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; the recipes and the keys of one are shown by --help and --keys."""
    from a2mamba.recipes import RECIPES

    lines = [f"  {name:12} {(inspect.getdoc(recipe) or '').splitlines()[0]}" for name, recipe in RECIPES.items()]
    examples = "Examples: a2mamba train digits\n          a2mamba train folder data.root=photos model.name=a2mamba_tiny"
    parser.epilog = "\n".join(["Recipes:", *lines, "", examples])
    parser.add_argument("recipe", help="one of the recipes below")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, typed")
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/RECIPE)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the folder")
    parser.add_argument("--small", action="store_true", help="the recipe's debug form: seconds on two cores")
    parser.add_argument("--keys", action="store_true", help="print what can be changed, and do not train")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    parser.add_argument("--json", action="store_true", help="print the final row as one JSON object")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; results on stdout, progress on stderr."""
    from a2mamba.recipes import find_recipe
    from a2mamba.recipes.classification import debug, train
    from a2mamba.recipes.overrides import apply_overrides, describe_fields

    config = find_recipe(arguments.recipe)()
    config = apply_overrides(debug(config) if arguments.small else config, arguments.overrides)
    if arguments.keys:
        fields = [(f.key, f.type, str(f.value), f.doc) for f in describe_fields(config)]
        print_table(("key", "type", "value", "meaning"), fields)
        return 0
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("this version trains in one process; start it without torchrun")
    output = arguments.out or Path("runs") / arguments.recipe
    device = choose_device(arguments.device)
    trainer = train(
        config,
        output,
        recipe=arguments.recipe,
        resume=arguments.resume,
        device=device,
        quiet=arguments.quiet,
    )
    last, best = trainer.history[-1], trainer.best
    if arguments.json:
        print_json({"output": str(output), "last": last, "best": best})
        return 0
    rows = [(name, f"{value:.6g}") for name, value in last.items()]
    print_table(("last epoch", "value"), rows)
    if best is not None:
        print(
            f"best {best['metric']} {best['value']:.2f} in epoch {best['epoch']}: {output / 'checkpoints' / 'best.pt'}"
        )
    say(f"evaluate with: a2mamba eval {arguments.recipe} --checkpoint {output / 'checkpoints' / 'best.pt'}")
    return 0
