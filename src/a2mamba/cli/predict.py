"""`a2mamba predict NAME --checkpoint F IMAGES... --out DIR`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say, without_load_notes

if TYPE_CHECKING:
    from a2mamba.recipes import ClassificationRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Writes predictions.json and, for every picture, one with the likeliest classes beside it.\n"
        "Examples: a2mamba predict a2mamba_nano --checkpoint runs/digits/checkpoints/best.pt a.png b.png --out out\n"
        "          a2mamba predict a2mamba_tiny --pretrained photo.jpg --out out"
    )
    parser.add_argument("name", help="the model, one of `a2mamba models`")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="picture files")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="weights, of any layout that load_checkpoint takes")
    source.add_argument("--pretrained", action="store_true", help="the released weights, downloaded once")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line, where the weights have none"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--top", type=int, default=5, help="how many classes to list (default 5)")
    parser.add_argument("--json", action="store_true", help="print predictions.json on stdout too")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict; nothing is written unless every picture can be read."""
    import torch

    from a2mamba.backbone import check_name
    from a2mamba.cli.pictures import annotate
    from a2mamba.data import load_image
    from a2mamba.engine import replace_text
    from a2mamba.tasks import class_scores

    check_name(arguments.name)
    if arguments.top < 1:
        raise ValueError(f"--top must be at least 1, got {arguments.top}")
    device = choose_device(arguments.device)
    with without_load_notes():
        model, config, classes, report = _model(arguments, device)
    images = [load_image(path, config.data) for path in arguments.images]
    predictions: list[dict[str, Any]] = []
    for path, image in zip(arguments.images, images, strict=True):
        with torch.inference_mode():
            scores = class_scores(model, image[None].to(device))[0].cpu()
        likeliest = scores.topk(min(arguments.top, len(classes)))
        top = [
            {"class": classes[i], "index": i, "probability": round(p, 6)}
            for p, i in zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        ]
        predictions.append({"image": str(path), "top": top})
    for number, prediction in enumerate(predictions):
        annotate(prediction, arguments.out / f"{number:04d}-{Path(prediction['image']).stem}.png")
    result = {"model": arguments.name, "weights": report, "predictions": predictions}
    replace_text(arguments.out / "predictions.json", json.dumps(result, indent=2))
    say(report)
    if arguments.json:
        print_json(result)
    else:
        rows = [(p["image"], p["top"][0]["class"], f"{100 * p['top'][0]['probability']:.1f}") for p in predictions]
        print_table(("picture", "class", "%"), rows)
        say(f"pictures and predictions.json are in {arguments.out}")
    return 0


def _model(arguments: argparse.Namespace, device: str) -> tuple[Any, ClassificationRun, list[str], str]:
    """Return the model in eval mode, the run whose preprocessing it wants, its class names, and what was loaded."""
    from dataclasses import replace

    import timm

    from a2mamba.backbone import create_model
    from a2mamba.recipes import find_recipe
    from a2mamba.recipes.classification import checkpoint_classes, load_trained, read_trained

    trained = None if arguments.pretrained else read_trained(arguments.checkpoint)
    if trained is not None:
        if trained.run.model.name != arguments.name:
            raise ValueError(
                f"{arguments.checkpoint} holds {trained.run.model.name}, not {arguments.name}; "
                f"use: a2mamba predict {trained.run.model.name} ..."
            )
        model, report = load_trained(trained.run, arguments.checkpoint, classes=trained.classes, device=device)
        return model, trained.run, _names(arguments, trained.classes), report
    record = timm.get_pretrained_cfg(arguments.name)
    assert record is not None
    config = find_recipe("folder")()
    data = replace(config.data, crop_pct=record.crop_pct, interpolation=record.interpolation)
    config = replace(config, model=replace(config.model, name=arguments.name), data=data)
    if arguments.pretrained:
        model = create_model(arguments.name, pretrained=True).eval().to(device)
        return model, config, _names(arguments, _numbers(model.num_classes)), "released weights"
    count = checkpoint_classes(arguments.checkpoint)
    model, report = load_trained(config, arguments.checkpoint, classes=_numbers(count), device=device)
    return model, config, _names(arguments, _numbers(count)), report


def _numbers(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def _names(arguments: argparse.Namespace, own: list[str]) -> list[str]:
    if arguments.classes is None:
        return own
    try:
        names = arguments.classes.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{arguments.classes} is no UTF-8 text; expected class names, one a line") from error
    names = [name.strip() for name in names if name.strip()]
    if len(names) != len(own):
        raise ValueError(f"{arguments.classes} names {len(names)} classes, the model has {len(own)}")
    return names
