"""`a2mamba train RECIPE [key=value ...]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from a2mamba.catalog.recipes import RECIPES
from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from a2mamba.engine import Trainer
    from a2mamba.recipes import AnyRun, DryRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; the recipes and the keys of one are shown by --help and --keys."""
    lines = [f"  {name:28} {line}" for name, line in RECIPES.items()]
    examples = (
        "Examples: a2mamba train digits\n"
        "          a2mamba train finetune data.root=photos model.name=a2mamba_nano\n"
        "          a2mamba train in1k_tiny data.root=/data/imagenet --dry-run\n"
        "          a2mamba train segman_v2_tiny_ade20k data.root=/data/ade20k model.pretrained_backbone=true\n"
        "          torchrun --nproc-per-node 8 -m a2mamba train in1k_tiny data.root=/data/imagenet"
    )
    parser.epilog = "\n".join(["Recipes:", *lines, "", examples])
    parser.add_argument("recipe", help="one of the recipes below")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, typed")
    parser.add_argument("--paper", action="store_true", help="what the paper says, where the authors' scripts differ")
    parser.add_argument("--small", action="store_true", help="the recipe's debug form: seconds on two cores")
    parser.add_argument("--keys", action="store_true", help="print what can be changed, and do not train")
    add_run_options(parser)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Declare what `train` and `fit` share."""
    parser.add_argument("--out", type=Path, help="folder of the run (default runs/RECIPE)")
    parser.add_argument(
        "--resume",
        choices=("require", "auto"),
        default="never",
        help="go on from the newest checkpoint in the folder; --resume auto: begin where there is none",
    )
    parser.add_argument("--max-minutes", type=float, metavar="M", help="save and stop after so many minutes")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and what it costs")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; results on stdout, progress on stderr."""
    from a2mamba.recipes import make_run
    from a2mamba.recipes.batches import override
    from a2mamba.recipes.overrides import describe_fields
    from a2mamba.tasks import task_of

    config = make_run(arguments.recipe, paper=arguments.paper)
    config, notes = override(task_of(config).debug(config) if arguments.small else config, arguments.overrides)
    if arguments.keys:
        fields = [(f.key, f.type, str(f.value), f.doc) for f in describe_fields(config)]
        print_table(("key", "type", "value", "meaning"), fields)
        return 0
    return perform(config, arguments, recipe=arguments.recipe, notes=notes)


def perform(config: AnyRun, arguments: argparse.Namespace, *, recipe: str, notes: Sequence[str]) -> int:
    """Train a resolved run, or say what it would cost: what `train` and `fit` share."""
    from a2mamba.cli.summary import write_summary
    from a2mamba.engine.distributed import is_main_process, process_group
    from a2mamba.recipes import dry_run, train

    output = arguments.out or Path("runs") / recipe
    with process_group(choose_device(arguments.device)) as device:
        if is_main_process():
            for note in notes:
                say(note)
        if arguments.dry_run:
            found = dry_run(config, device=device)
            if is_main_process():
                _show_dry_run(config, found, recipe=recipe, device=device, as_json=arguments.json)
            return 0
        try:
            trainer = train(
                config,
                output,
                recipe=recipe,
                resume=arguments.resume,
                max_minutes=arguments.max_minutes,
                device=device,
                quiet=arguments.quiet,
            )
        finally:
            # An interrupted run has curves, too.
            page = write_summary(output) if is_main_process() else None
        if is_main_process():
            _show_result(trainer, output, recipe=recipe, page=page, as_json=arguments.json)
    return 0


def _show_result(trainer: Trainer, output: Path, *, recipe: str, page: Path | None, as_json: bool) -> None:
    last, best = trainer.history[-1], trainer.best
    if trainer.stop_reason is not None:
        say(f"ended after {trainer.epoch} of {trainer.epochs} epochs: {trainer.stop_reason}")
    if as_json:
        print_json({"output": str(output), "last": last, "best": best})
        return
    rows = [(name, f"{value:.6g}") for name, value in last.items()]
    print_table(("last epoch", "value"), rows)
    if best is not None:
        print(
            f"best {best['metric']} {best['value']:.2f} in epoch {best['epoch']}: {output / 'checkpoints' / 'best.pt'}"
        )
    if page is not None:
        say(f"curves: {page}")
    say(f"evaluate with: a2mamba eval --checkpoint {output / 'checkpoints' / 'best.pt'}")


def _show_dry_run(config: AnyRun, found: DryRun, *, recipe: str, device: str, as_json: bool) -> None:
    from a2mamba.engine import duration, world_size
    from a2mamba.recipes.dry_run import total_parameters
    from a2mamba.recipes.overrides import describe_fields, to_json

    if as_json:
        print_json({"recipe": recipe, "config": json.loads(to_json(config)), "device": device, **found.to_dict()})
        return
    print_table(("key", "value"), [(f.key, str(f.value)) for f in describe_fields(config)], title=f"recipe {recipe}")
    print_table(
        ("group", "tensors", "parameters", "weight decay", "peak lr"),
        [(g.name, g.tensors, g.parameters, f"{g.weight_decay:g}", f"{g.lr:g}") for g in found.groups],
        title=f"{total_parameters(found.groups):,} parameters",
    )
    plan, length, cost = found.plan, found.length, found.cost
    rows = [
        ("training images", f"{length.samples:,}"),
        (
            "batch",
            f"{config.data.batch_size} = {world_size()} processes x {plan.accumulate} passes x {plan.micro_batch}",
        ),
        ("optimizer steps", f"{length.steps_per_epoch:,} an epoch, {length.steps:,} in {length.epochs} epochs"),
    ]
    if cost is not None:
        memory = "not known" if cost.peak_memory is None else f"{cost.peak_memory / 2**30:.1f} GiB"
        scaled = "" if cost.samples == plan.micro_batch * plan.accumulate else f" (scaled up from {cost.samples})"
        rows += [
            ("peak memory", f"{memory}, in steps of {cost.samples} images on {device}"),
            ("time of a step", f"{cost.seconds_per_step:.3g} s on {device}{scaled}"),
            ("time of the run", f"{duration(cost.seconds_per_step * length.steps)}, without loading and evaluation"),
        ]
    print_table(("what", "how much"), rows)
    for note in found.notes:
        say(note)
