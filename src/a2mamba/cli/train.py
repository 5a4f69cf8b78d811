"""`a2mamba train RECIPE [key=value ...]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from a2mamba.engine import Trainer
    from a2mamba.recipes.dry_run import Rehearsal
    from a2mamba.recipes.trained import AnyRun
    from a2mamba.recipes.training import Resume


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; the recipes and the keys of one are shown by --help and --keys."""
    from a2mamba.recipes import RECIPES, document

    lines = [f"  {name:28} {document(recipe).splitlines()[0]}" for name, recipe in RECIPES.items()]
    examples = (
        "Examples: a2mamba train digits\n"
        "          a2mamba train finetune data.root=photos model.name=a2mamba_nano\n"
        "          a2mamba train in1k_tiny data.root=/data/imagenet --dry-run\n"
        "          a2mamba train segman_v2_tiny_ade20k data.root=/data/ade20k model.pretrained_backbone=true\n"
        "          torchrun --nproc-per-node 8 -m a2mamba.cli.main train in1k_tiny data.root=/data/imagenet"
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
        action="store_true",
        help="go on from the newest checkpoint in the folder; --resume auto: begin where there is none",
    )
    parser.add_argument("--max-minutes", type=float, metavar="M", help="save and stop after so many minutes")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done and what it costs")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train; results on stdout, progress on stderr."""
    from a2mamba.recipes import make_run, module_of
    from a2mamba.recipes.batches import override
    from a2mamba.recipes.overrides import describe_fields

    resume = resume_mode(arguments)
    config = make_run(arguments.recipe, paper=arguments.paper)
    config, notes = override(module_of(config).debug(config) if arguments.small else config, arguments.overrides)
    if arguments.keys:
        fields = [(f.key, f.type, str(f.value), f.doc) for f in describe_fields(config)]
        print_table(("key", "type", "value", "meaning"), fields)
        return 0
    return perform(config, arguments, recipe=arguments.recipe, resume=resume, notes=notes)


def resume_mode(arguments: argparse.Namespace) -> Resume:
    """What --resume means; the word auto behind it is taken out of the key=value words.

    An option with an optional value would swallow the word that follows it: a key=value, or the recipe.
    """
    if not arguments.resume:
        return "never"
    if "auto" in arguments.overrides:
        arguments.overrides.remove("auto")
        return "auto"
    return "require"


def perform(config: AnyRun, arguments: argparse.Namespace, *, recipe: str, resume: Resume, notes: Sequence[str]) -> int:
    """Train a resolved run, or rehearse it: what `train` and `fit` share."""
    from a2mamba.cli.summary import write_summary
    from a2mamba.engine.distributed import is_main_process, process_group
    from a2mamba.recipes import rehearse, train

    output = arguments.out or Path("runs") / recipe
    with process_group(choose_device(arguments.device)) as device:
        if is_main_process():
            for note in notes:
                say(note)
        if arguments.dry_run:
            rehearsal = rehearse(config, device=device)
            if is_main_process():
                _show_rehearsal(config, rehearsal, recipe=recipe, device=device, as_json=arguments.json)
            return 0
        try:
            trainer = train(
                config,
                output,
                recipe=recipe,
                resume=resume,
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
    say(f"evaluate with: a2mamba eval {recipe} --checkpoint {output / 'checkpoints' / 'best.pt'}")


def _show_rehearsal(config: AnyRun, rehearsal: Rehearsal, *, recipe: str, device: str, as_json: bool) -> None:
    from a2mamba.engine import duration, world_size
    from a2mamba.recipes.dry_run import total_parameters
    from a2mamba.recipes.overrides import describe_fields, to_json

    if as_json:
        print_json({"recipe": recipe, "config": json.loads(to_json(config)), "device": device, **rehearsal.to_dict()})
        return
    print_table(("key", "value"), [(f.key, str(f.value)) for f in describe_fields(config)], title=f"recipe {recipe}")
    print_table(
        ("group", "tensors", "parameters", "weight decay", "peak lr"),
        [(g.name, g.tensors, g.parameters, f"{g.weight_decay:g}", f"{g.lr:g}") for g in rehearsal.groups],
        title=f"{total_parameters(rehearsal.groups):,} parameters",
    )
    plan, length, cost = rehearsal.plan, rehearsal.length, rehearsal.cost
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
    for note in rehearsal.notes:
        say(note)
