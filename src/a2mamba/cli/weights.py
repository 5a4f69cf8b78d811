"""`a2mamba weights`."""

from __future__ import annotations

import argparse

from a2mamba.cli.output import print_json, print_table, say
from a2mamba.weights import REMARKS, WEIGHTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "They are downloaded at their first use. Those of Google Drive need gdown: pip install 'a2mamba[weights]'.\n"
        "Examples: a2mamba weights\n"
        "          a2mamba weights --json\n"
        "          a2mamba predict segman_small --pretrained cityscapes photo.jpg --out out"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the table of released weights."""
    if arguments.json:
        print_json({"weights": [weights.to_dict() for weights in WEIGHTS], "remarks": list(REMARKS.values())})
        return 0
    columns = ("network", "task", "data set", "metric", "published %", "license", "address")
    rows = [
        (each.name, each.task, each.dataset, each.metric, each.value, each.license, each.source.address)
        for each in WEIGHTS
    ]
    print_table(columns, rows)
    for remark in REMARKS.values():
        say(remark)
    return 0
