"""`a2mamba data demo DIR` and `a2mamba data check DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from a2mamba.cli.output import print_json, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Examples: a2mamba data demo demo/data\n          a2mamba data check /data/imagenet"
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    demo = actions.add_parser("demo", help="write the embedded data in the layouts of ImageNet, ADE20K and COCO")
    demo.add_argument("dir", type=Path, help="folder to make")
    demo.add_argument("--overwrite", action="store_true", help="replace demo data that is there already")
    demo.add_argument("--seed", type=int, default=0, help="of split and scenes (default 0)")
    check = actions.add_parser(
        "check", help="find what would spoil a run: undecodable files, empty classes, duplicates"
    )
    check.add_argument("dir", type=Path, help="folder of a data set")
    for action in (demo, check):
        action.add_argument("--json", action="store_true", help="print one JSON object")
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Write or check data; checking exits with 1 where there are problems."""
    from a2mamba.data import check_dataset, write_demo

    if arguments.action == "demo":
        written = write_demo(arguments.dir, seed=arguments.seed, overwrite=arguments.overwrite)
        print_json(written.to_dict()) if arguments.json else print(written.summary())
        return 0
    report = check_dataset(arguments.dir)
    print_json(report.to_dict()) if arguments.json else print(report.summary())
    if report.problems:
        say(f"{len(report.problems)} problems")
    return 1 if report.problems else 0
