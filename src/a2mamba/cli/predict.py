"""`a2mamba predict [NAME] --checkpoint F IMAGES|DIRS|GLOBS --out DIR`, for networks of all tasks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from a2mamba.cli.device import add_device
from a2mamba.cli.inputs import add_network_and_images, image_files, network_and_images, positive
from a2mamba.cli.output import print_json, print_table, say, track, without_load_notes
from a2mamba.weights import dataset_in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Writes predictions.json and, for every image, a PNG: the likeliest classes beside it, the map of its\n"
        "classes (and one laid over it), or the objects found in it. A training checkpoint says which network it\n"
        "holds; a file of weights alone needs its name.\n"
        "Examples: a2mamba predict --checkpoint runs/digits/checkpoints/best.pt a.png photos 'more/*.jpg' --out out\n"
        "          a2mamba predict a2mamba_tiny --pretrained photo.jpg --out out\n"
        "          a2mamba predict segman_small --pretrained cityscapes photo.jpg --out out\n"
        "          a2mamba predict segman_tiny --checkpoint segman_t_ade20k.pth photo.jpg --out out"
    )
    add_network_and_images(parser)
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line, where the weights have none"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--top", type=positive, help="classification: how many classes to list (default 5)")
    parser.add_argument(
        "--test-mode", metavar="NAME", help="segmentation: how images are looked at; image, ade20k, cityscapes, ..."
    )
    parser.add_argument("--min-score", type=float, help="detection: show objects of this score and more (default 0.5)")
    parser.add_argument("--batch-size", type=positive, help="images of one forward pass (default: by task)")
    parser.add_argument("--max-pixels", type=positive, help="refuse images of more pixels before they are decoded")
    parser.add_argument("--json", action="store_true", help="print predictions.json on stdout too")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict; results on stdout, images and predictions.json in the folder."""
    from a2mamba.data import MAX_PIXELS
    from a2mamba.predictor import UnreadableImagesError, load, save_index

    name, words = network_and_images(arguments.images)
    dataset = None
    if arguments.pretrained:
        if name is None:
            raise ValueError("--pretrained needs the name of a network: a2mamba predict NAME --pretrained IMAGE ...")
        dataset, words = dataset_in_words(name, words)
        source, name = name, None
    else:
        source = arguments.checkpoint
    files = image_files(words)
    with without_load_notes():
        predictor = load(
            source,
            name=name,
            pretrained=dataset,
            classes=arguments.classes,
            device=arguments.device,
            top=arguments.top,
            min_score=arguments.min_score,
            test_mode=arguments.test_mode,
        )
    entries: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    unreadable = None
    try:
        most = arguments.max_pixels or MAX_PIXELS
        predictions = predictor.stream(files, batch_size=arguments.batch_size, max_pixels=most)
        for prediction in track(predictions, predictor.task, total=len(files)):
            entries.append(prediction.save(arguments.out))
            rows.append(prediction.row())
    except UnreadableImagesError as error:
        if not entries:
            raise
        unreadable = error
    result = predictor.describe(entries)
    save_index(arguments.out, result)
    say(predictor.report)
    if arguments.json:
        print_json(result)
    else:
        print_table(predictor.columns, rows)
        say(f"images and predictions.json are in {arguments.out}")
    if unreadable is not None:
        raise unreadable
    return 0
