"""`a2mamba fit DIR [key=value ...]`: from a folder of images to a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from a2mamba.cli.train import add_run_options, perform


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Recognized: class folders, DIR/{train,val}/<class>/<image> or DIR/<class>/<image>; class maps as in ADE20K,\n"
        "Cityscapes, COCO-Stuff, or DIR/{images,masks}/{train,val}/*; objects, DIR/annotations/instances_*.json.\n"
        "Examples: a2mamba fit photos\n"
        "          a2mamba fit photos --dry-run\n"
        "          a2mamba fit photos --checkpoint a2mamba_tiny.pth --model a2mamba_tiny --epochs 10"
    )
    parser.add_argument("dir", type=Path, help="folder of the data set")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to what is chosen, typed")
    parser.add_argument(
        "--model", help="backbone, segmentation network or detector (default: nano on a CPU, tiny elsewhere)"
    )
    parser.add_argument("--checkpoint", type=Path, help="weights to begin with (default: the released ones)")
    parser.add_argument("--scratch", action="store_true", help="begin with random weights")
    parser.add_argument("--epochs", type=int, help="default: by the number of images")
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say what was chosen and why, and train."""
    from a2mamba.cli.device import choose_device
    from a2mamba.recipes.batches import override
    from a2mamba.recipes.choice import Wishes
    from a2mamba.recipes.choosing import choose_run

    if arguments.scratch and arguments.checkpoint is not None:
        raise ValueError("--scratch and --checkpoint exclude each other; give one of them")
    if arguments.epochs is not None and arguments.epochs < 1:
        raise ValueError(f"--epochs {arguments.epochs}: expected 1 or more")
    wishes = Wishes(arguments.model, arguments.checkpoint, arguments.scratch, arguments.epochs)
    choice = choose_run(arguments.dir, wishes, device=choose_device(arguments.device))
    config, notes = override(choice.run, arguments.overrides)
    arguments.out = arguments.out or Path("runs") / f"fit-{arguments.dir.resolve().name}"
    return perform(config, arguments, recipe=choice.recipe, notes=[*choice.lines(), *notes])
