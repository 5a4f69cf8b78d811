"""`a2mamba info NAME`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from a2mamba.cli.output import print_json, print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Examples: a2mamba info a2mamba_tiny --size 512 --json\n"
        "          a2mamba info segman_v2_tiny --size 512 --classes 150"
    )
    parser.add_argument("name", help="a model of `a2mamba models`, or of an ablation: ablation_lass, ...")
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="image side, or height and width (default 224; segmentation 512; detection 800 1280)",
    )
    parser.add_argument(
        "--classes", type=int, metavar="N", help="classes (default 1000; segmentation 150; detection 80)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Count a model; nothing is computed or downloaded."""
    from a2mamba.tasks import task_of_network

    task = task_of_network(arguments.name).name
    given = arguments.size or {"classification": [224], "segmentation": [512], "detection": [800, 1280]}[task]
    size = given * 2 if len(given) == 1 else given
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"--size must be one or two numbers of at least 1, got {' '.join(map(str, given))}")
    if arguments.classes is not None and arguments.classes < 1:
        raise ValueError(f"--classes must be at least 1, got {arguments.classes}")
    image = (3, *size)
    counters: dict[str, Callable[..., Counts]] = {
        "classification": _backbone,
        "segmentation": _segmenter,
        "detection": _detector,
    }
    count, operations, maps = counters[task](arguments.name, image, arguments.classes)
    if arguments.json:
        result = {"name": arguments.name, "size": size, "params": count, "flops": operations}
        print_json(result | ({"feature_maps": maps} if maps else {}))
        return 0
    print(f"{arguments.name}: {count:,} parameters, {operations / 1e9:.3f} G MACs at {size[0]} x {size[1]}")
    if maps:
        rows = [(m["module"], m["channels"], m["stride"], f"{m['height']} x {m['width']}") for m in maps]
        print_table(("feature map", "channels", "stride", "size"), rows)
    return 0


Counts = tuple[int, int, list[dict[str, Any]]]


def _backbone(name: str, image: tuple[int, int, int], classes: int | None) -> Counts:
    from a2mamba.analysis import feature_maps, flops, parameters
    from a2mamba.backbone import create_model

    model = create_model(name, num_classes=classes or 1000, device="meta")
    return parameters(model), flops(model, image), feature_maps(model, image)


def _segmenter(name: str, image: tuple[int, int, int], classes: int | None) -> Counts:
    """The auxiliary head counts as parameters; it does not run when an image is segmented."""
    from a2mamba.analysis import flops, parameters
    from a2mamba.segmentation import create_segmenter

    model = create_segmenter(name, num_classes=classes or 150, device="meta").eval()
    return parameters(model), flops(model, image), []


def _detector(name: str, image: tuple[int, int, int], classes: int | None) -> Counts:
    """With 1000 dummy proposals in every box head and 100 in every mask head, as the paper's tables count."""
    from a2mamba.analysis import flops, parameters
    from a2mamba.detection import DummyForward, create_detector

    model = create_detector(name, num_classes=classes or 80, device="meta").eval()
    return parameters(model), flops(DummyForward(model), image), []
