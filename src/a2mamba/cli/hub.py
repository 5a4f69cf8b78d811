"""`a2mamba hub save CHECKPOINT DIR` and `a2mamba hub push CHECKPOINT USER/NAME`."""

from __future__ import annotations

import argparse
from pathlib import Path

from a2mamba.cli.output import print_json, say, without_load_notes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "The folder has model.safetensors, config.json, README.md; docs/integrations.md has who reads it.\n"
        "Examples: a2mamba hub save runs/digits/checkpoints/best.pt digits\n"
        "          a2mamba hub push runs/digits/checkpoints/best.pt me/digits --private --license apache-2.0"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    save = actions.add_parser("save", help="write a network as a folder that a2mamba, timm and transformers load")
    push = actions.add_parser("push", help="upload that folder to the Hugging Face hub")
    for action in (save, push):
        action.add_argument("checkpoint", metavar="CHECKPOINT", help="a file of weights, as for predict, or a folder")
    save.add_argument("dir", type=Path, help="folder to write")
    push.add_argument("repository", help="USER/NAME; made where there is none")
    push.add_argument("--private", action="store_true", help="a repository that is made is private")
    for action in (save, push):
        action.add_argument("--name", help="of the network, where the file does not say")
        action.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line")
        action.add_argument("--license", help="of the weights, for the card: apache-2.0, other, ...")
        action.add_argument("--json", action="store_true", help="print one JSON object")
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Write or upload; where it is on stdout."""
    from a2mamba.predictor import load

    with without_load_notes():
        predictor = load(arguments.checkpoint, name=arguments.name, classes=arguments.classes, device="cpu")
    say(predictor.report)
    if arguments.action == "save":
        where = str(predictor.save_pretrained(arguments.dir, license=arguments.license))
    else:
        where = predictor.push_to_hub(arguments.repository, private=arguments.private, license=arguments.license)
    print_json({"saved": where}) if arguments.json else print(where)
    return 0
