"""`a2mamba serve CHECKPOINT ...`: a local web page for images, for networks of all tasks."""

from __future__ import annotations

import argparse
import signal
import threading
from importlib.util import find_spec
from typing import NoReturn

from a2mamba.cli.device import add_device
from a2mamba.cli.inputs import positive
from a2mamba.cli.output import say, without_load_notes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "The page is for this machine alone; nothing is sent elsewhere, and uploads are deleted. Ctrl-C ends it.\n"
        "Examples: a2mamba serve runs/digits/checkpoints/best.pt\n"
        "          a2mamba serve runs/a/checkpoints/best.pt segman_tiny=segman_t_ade.pth a2mamba_tiny --port 8000\n"
        "          a2mamba serve segman_small --pretrained cityscapes"
    )
    parser.add_argument(
        "words",
        nargs="+",
        metavar="CHECKPOINT",
        help="a training checkpoint, NAME=FILE for weights alone,\nor the NAME of a network with released weights",
    )
    parser.add_argument(
        "--pretrained",
        action="store_true",
        help="a word behind a NAME may be the data set of its released weights: a2mamba weights",
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets the whole network ask")
    parser.add_argument("--max-megabytes", type=positive, help="of an uploaded file, 20")
    parser.add_argument("--max-pixels", type=positive, help="of an uploaded image, 50,000,000")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    if find_spec("gradio") is None:
        raise ImportError('gradio is not installed: pip install "a2mamba[serve]"')
    from a2mamba.serve.networks import load_networks

    with without_load_notes():
        networks = load_networks(arguments.words, pretrained=arguments.pretrained, device=arguments.device, say=say)

    from a2mamba.serve.server import page_server
    from a2mamba.serve.uploads import MAX_MEGABYTES, MAX_PIXELS

    signal.signal(signal.SIGTERM, _stop)
    with page_server(
        networks,
        host=arguments.host,
        port=arguments.port,
        max_megabytes=MAX_MEGABYTES if arguments.max_megabytes is None else arguments.max_megabytes,
        max_pixels=MAX_PIXELS if arguments.max_pixels is None else arguments.max_pixels,
    ) as server:
        print(server.url, flush=True)
        say("Ctrl-C ends it")
        threading.Event().wait()
    return 0


def _stop(number: int, _: object) -> NoReturn:
    """End as after Ctrl-C: what visitors have uploaded is deleted."""
    raise SystemExit(128 + number)
