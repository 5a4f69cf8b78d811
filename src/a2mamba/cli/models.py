"""`a2mamba models`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from a2mamba.cli.output import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Examples: a2mamba models\n          a2mamba models --task segmentation --json"
    parser.add_argument(
        "--task",
        choices=("classification", "segmentation", "detection"),
        help="the models of one task (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the table of backbones, and the names of what is built on them."""
    from a2mamba.backbone.facts import FACTS
    from a2mamba.detection import list_detectors
    from a2mamba.segmentation import list_segmenters

    systems = {"segmentation": list_segmenters(), "detection": list_detectors()}
    wanted = [arguments.task] if arguments.task else ["classification", *systems]
    if arguments.json:
        models = [{"name": name, "task": "classification", **asdict(facts)} for name, facts in FACTS.items()]
        models = models if "classification" in wanted else []
        models += [{"name": name, "task": task} for task in systems if task in wanted for name in systems[task]]
        print_json({"models": models})
        return 0
    if "classification" in wanted:
        rows = [
            (name, f"{f.parameters / 1e6:.2f}", f"{f.flops / 1e9:.2f}", "" if f.top1 is None else f.top1, f.weights)
            for name, f in FACTS.items()
        ]
        print_table(("model", "M parameters", "G MACs at 224", "published top-1 %", "weights"), rows)
    for task in systems:
        if task in wanted:
            print_table((f"{task} network",), [(name,) for name in systems[task]])
    return 0
