"""`a2mamba models`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from a2mamba.catalog import FACTS, MODELS
from a2mamba.cli.output import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Examples: a2mamba models\n          a2mamba models --task segmentation --json"
    parser.add_argument(
        "--task",
        choices=tuple(MODELS),
        help="the models of one task (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the table of backbones, and the names of what is built on them."""
    wanted = MODELS if arguments.task is None else {arguments.task: MODELS[arguments.task]}
    if arguments.json:
        models = [
            {"name": name, "task": task, **(asdict(FACTS[name]) if name in FACTS else {})}
            for task, names in wanted.items()
            for name in names
        ]
        print_json({"models": models})
        return 0
    for task, names in wanted.items():
        if task != "classification":
            print_table((f"{task} network",), [(name,) for name in names])
            continue
        rows = [
            (name, f"{f.parameters / 1e6:.2f}", f"{f.flops / 1e9:.2f}", "" if f.top1 is None else f.top1, f.weights)
            for name, f in FACTS.items()
        ]
        print_table(("model", "M parameters", "G MACs at 224", "published top-1 %", "weights"), rows)
    return 0
