"""`a2mamba models`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from a2mamba.cli.output import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Example: a2mamba models --json"
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the table of backbones."""
    from a2mamba.backbone.facts import FACTS

    if arguments.json:
        print_json({"models": [{"name": name, **asdict(facts)} for name, facts in FACTS.items()]})
        return 0
    rows = [
        (name, f"{f.parameters / 1e6:.2f}", f"{f.flops / 1e9:.2f}", "" if f.top1 is None else f.top1, f.weights)
        for name, f in FACTS.items()
    ]
    print_table(("model", "M parameters", "G MACs at 224", "published top-1 %", "weights"), rows)
    return 0
