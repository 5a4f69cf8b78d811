"""`a2mamba fit DIR [key=value ...]`: from a folder of images to a trained model."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from a2mamba.cli.output import say, show_progress
from a2mamba.cli.train import add_run_options, perform

if TYPE_CHECKING:
    from a2mamba.recipes.fit import Choice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Recognized: class folders (in splits of any usual name, or none), tables of images and classes, images and\n"
        "masks in the usual arrangements, ADE20K, Cityscapes, COCO-Stuff, Pascal VOC, annotations of objects. All of\n"
        "them, with a tree of each: docs/data.md\n"
        "Examples: a2mamba fit photos\n"
        "          a2mamba fit photos --dry-run\n"
        "          a2mamba fit photos --checkpoint a2mamba_tiny.pth --model a2mamba_tiny --epochs 10"
    )
    parser.add_argument("dir", type=Path, help="folder of the data set")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to what is chosen, typed")
    parser.add_argument(
        "--model", help="backbone, segmentation network or detector (default: nano on a CPU, tiny elsewhere)"
    )
    parser.add_argument("--layout", help="read the folder as this layout, whatever it looks like; see docs/data.md")
    parser.add_argument("--checkpoint", type=Path, help="weights to begin with (default: the released ones)")
    parser.add_argument("--scratch", action="store_true", help="begin with random weights")
    parser.add_argument("--epochs", type=int, help="default: by the number of images")
    add_run_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say what was recognized and chosen, look at the images to evaluate on, and train."""
    from a2mamba.cli.device import choose_device
    from a2mamba.data import UnknownLayoutError, check_validation
    from a2mamba.recipes.batches import override
    from a2mamba.recipes.fit import Wishes, choose_run

    if arguments.scratch and arguments.checkpoint is not None:
        raise ValueError("--scratch and --checkpoint exclude each other; give one of them")
    if arguments.epochs is not None and arguments.epochs < 1:
        raise ValueError(f"--epochs {arguments.epochs}: expected 1 or more")
    wishes = Wishes(arguments.model, arguments.checkpoint, arguments.scratch, arguments.epochs)
    try:
        choice = choose_run(arguments.dir, wishes, device=choose_device(arguments.device), layout=arguments.layout)
    except UnknownLayoutError as error:
        return refuse(error, "fit")
    config, notes = override(choice.run, arguments.overrides)
    arguments.out = arguments.out or Path("runs") / f"fit-{arguments.dir.resolve().name}"
    if arguments.resume != "never":
        refuse_longer_schedule(choice, config.schedule.total_epochs, arguments)
    lines = [*choice.lines(), *notes]
    if not arguments.dry_run and os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        for line in lines:
            say(line)
        check_validation(choice.found, show_progress)
        lines = []
    return perform(config, arguments, recipe=choice.recipe, notes=lines)


def refuse(error: ValueError, command: str) -> int:
    """Print the lines about a folder that is not recognized; the exit status of a user's mistake."""
    first, *others = str(error).splitlines()
    say(f"a2mamba {command}: {first}")
    for line in others:
        say(f"  {line}")
    return 2


def refuse_longer_schedule(choice: Choice, epochs: int, arguments: argparse.Namespace) -> None:
    """Raise ValueError where a run in the output folder was made for another number of epochs.

    A schedule lowers the learning rate over its whole length: the state of a shorter one does not belong into it.
    """
    stored = arguments.out / "run.json"
    best = arguments.out / "checkpoints" / "best.pt"
    if not stored.is_file() or not best.is_file():
        return
    schedule = json.loads(stored.read_text(encoding="utf-8"))["config"]["schedule"]
    before = type(choice.run.schedule)(**{name: _tupled(value) for name, value in schedule.items()}).total_epochs
    if before == epochs:
        return
    words = [
        *("a2mamba", "fit", str(arguments.dir), "--checkpoint", str(best)),
        *(("--epochs", str(arguments.epochs)) if arguments.epochs is not None else ()),
        *("--out", f"{arguments.out}-more"),
    ]
    raise ValueError(
        f"{arguments.out} is a run of {before} epochs, whose learning rate ends with them: a schedule of {epochs} "
        f"cannot resume it; go on from the best checkpoint with: {shlex.join(words)}"
    )


def _tupled(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
