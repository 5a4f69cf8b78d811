"""`a2mamba data demo DIR`, `a2mamba data check DIR` and `a2mamba data convert LAYOUT DIR`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from a2mamba.cli.fit import refuse
from a2mamba.cli.output import print_json, say, show_progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Examples: a2mamba data demo demo/data\n          a2mamba data check /data/imagenet\n"
        "          a2mamba data convert cityscapes /data/cityscapes"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    demo = actions.add_parser("demo", help="write the embedded data in the layouts of ImageNet, ADE20K and COCO")
    demo.add_argument("dir", type=Path, help="folder to make")
    demo.add_argument("--overwrite", action="store_true", help="replace demo data that is there already")
    demo.add_argument("--seed", type=int, default=0, help="of split and scenes (default 0)")
    demo.add_argument("--small", action="store_true", help="100 instead of 4,000 scenes to train segmentation on")
    check = actions.add_parser(
        "check", help="find what would spoil a run: undecodable files, empty classes, duplicates"
    )
    check.add_argument("dir", type=Path, help="folder of a data set")
    check.add_argument("--layout", help="read the folder as this layout, whatever it looks like; see docs/data.md")
    convert = actions.add_parser(
        "convert", help="write label files with class indices (*_labelTrainIds.png) beside those of a data set"
    )
    convert.add_argument("layout", choices=("cityscapes", "coco-stuff"), help="which data set it is")
    convert.add_argument("dir", type=Path, help="folder of the data set")
    convert.add_argument("--overwrite", action="store_true", help="write those that are there already once more")
    for action in (demo, check, convert):
        action.add_argument("--json", action="store_true", help="print one JSON object")
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Write, check or convert data; checking exits with 1 where there are problems."""
    from a2mamba.data import UnknownLayoutError, check_dataset, convert_labels, write_demo

    if arguments.action == "demo":
        write = partial(write_demo, segmentation_scenes=100) if arguments.small else write_demo
        written = write(arguments.dir, seed=arguments.seed, overwrite=arguments.overwrite)
        print_json(written.to_dict()) if arguments.json else print(written.summary())
        return 0
    if arguments.action == "convert":
        layout = arguments.layout.replace("-", "_")
        converted = convert_labels(arguments.dir, layout, overwrite=arguments.overwrite, progress=show_progress)
        print_json(converted.to_dict()) if arguments.json else print(converted.summary())
        return 0
    try:
        report = check_dataset(arguments.dir, layout=arguments.layout, progress=show_progress)
    except UnknownLayoutError as error:
        return refuse(error, "data check")
    print_json(report.to_dict()) if arguments.json else print(report.summary())
    if report.problems:
        say(f"{len(report.problems)} problems")
    return 1 if report.problems else 0
