"""`a2mamba predict NAME --checkpoint F IMAGES... --out DIR`, for models of all three tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.names import task_of
from a2mamba.cli.output import print_json, print_table, say, track, without_load_notes

if TYPE_CHECKING:
    from a2mamba.recipes import ClassificationRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Writes predictions.json and, for every image, a PNG: the likeliest classes beside it, the map of its\n"
        "classes (and one laid over it), or the objects found in it.\n"
        "Examples: a2mamba predict a2mamba_nano --checkpoint runs/digits/checkpoints/best.pt a.png b.png --out out\n"
        "          a2mamba predict a2mamba_tiny --pretrained photo.jpg --out out\n"
        "          a2mamba predict segman_v2_nano --checkpoint runs/scenes/checkpoints/best.pt photo.jpg --out out"
    )
    parser.add_argument("name", help="the model, one of `a2mamba models`")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="weights, of any layout that load_checkpoint takes")
    source.add_argument("--pretrained", action="store_true", help="the released weights, downloaded once")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="class names, one a line, where the weights have none"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--top", type=int, default=5, help="classification: how many classes to list (default 5)")
    parser.add_argument(
        "--test-mode", metavar="NAME", help="segmentation: how images are looked at; image, ade20k, cityscapes, ..."
    )
    parser.add_argument(
        "--min-score", type=float, default=0.5, help="detection: show objects of this score and more (default 0.5)"
    )
    parser.add_argument("--json", action="store_true", help="print predictions.json on stdout too")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Predict; results on stdout, images and predictions.json in the folder."""
    from a2mamba.files import replace_text

    task = task_of(arguments.name)
    if arguments.top < 1:
        raise ValueError(f"--top must be at least 1, got {arguments.top}")
    if not 0 <= arguments.min_score <= 1:
        raise ValueError(f"--min-score must be 0 to 1, got {arguments.min_score}")
    if arguments.pretrained and task != "classification":
        raise ValueError(f"no weights of {arguments.name} are known to be released; give --checkpoint FILE")
    if arguments.test_mode is not None and task != "segmentation":
        raise ValueError(f"--test-mode is for segmentation; {arguments.name} is a model of {task}")
    device = choose_device(arguments.device)
    kinds: dict[str, Callable[..., Predictions]] = {
        "classification": _classify,
        "segmentation": _segment,
        "detection": _detect,
    }
    report, columns, predictions = kinds[task](arguments, device)
    result = {"model": arguments.name, "weights": report, "predictions": predictions}
    replace_text(arguments.out / "predictions.json", json.dumps(result, indent=2))
    say(report)
    if arguments.json:
        print_json(result)
    else:
        print_table(columns, [_row(task, prediction) for prediction in predictions])
        say(f"images and predictions.json are in {arguments.out}")
    return 0


Predictions = tuple[str, tuple[str, ...], list[dict[str, Any]]]
"""What was loaded, the columns of the table, and an entry of predictions.json for each image."""


def _row(task: str, prediction: dict[str, Any]) -> tuple[str, ...]:
    if task == "classification":
        best = prediction["top"][0]
        return prediction["image"], best["class"], f"{100 * best['probability']:.1f}"
    if task == "segmentation":
        shares = ", ".join(f"{entry['class']} {100 * entry['share']:.1f} %" for entry in prediction["classes"][:5])
        return prediction["image"], shares
    found = ", ".join(f"{entry['class']} {entry['score']:.2f}" for entry in prediction["objects"][:8])
    return prediction["image"], str(len(prediction["objects"])), found


def _target(arguments: argparse.Namespace, number: int, suffix: str = "") -> Path:
    return arguments.out / f"{number:04d}-{arguments.images[number].stem}{suffix}.png"


def _classify(arguments: argparse.Namespace, device: str) -> Predictions:
    """Nothing is written unless every image can be read."""
    import torch

    from a2mamba.cli.images import annotate
    from a2mamba.data import load_image
    from a2mamba.tasks import class_scores

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
        annotate(prediction, _target(arguments, number))
    return report, ("image", "class", "%"), predictions


def _images(arguments: argparse.Namespace) -> list[Any]:
    """Decode all images before anything is written: RGB uint8 (3, H, W)."""
    from torchvision.transforms.functional import pil_to_tensor

    from a2mamba.data import decode_image

    return [pil_to_tensor(decode_image(path)) for path in arguments.images]


def _segment(arguments: argparse.Namespace, device: str) -> Predictions:
    from torchvision.transforms.functional import to_pil_image

    from a2mamba.cli.images import write_png
    from a2mamba.data import segmentation_palette
    from a2mamba.recipes import load_trained
    from a2mamba.recipes.segmentation import run_of_model
    from a2mamba.segmentation.inference import find_test_mode, predict
    from a2mamba.visualize import class_map_image, overlay

    trained = _trained_run(arguments)
    classes = _numbers(_count_classes(arguments)) if trained is None else trained[1]
    config = run_of_model(arguments.name) if trained is None else trained[0]
    mode = config.test
    if arguments.test_mode is not None:
        mode = find_test_mode(arguments.test_mode)
    names = _names(arguments, classes)
    with without_load_notes():
        model, report = load_trained(config, arguments.checkpoint, classes=classes, device=device)
    images = _images(arguments)
    palette = segmentation_palette(config.data.layout, len(names))
    predictions: list[dict[str, Any]] = []
    for number, image in enumerate(track(images, "segmenting")):
        found = predict(model, image, mode=mode, mean=config.data.mean, std=config.data.std, device=device)
        write_png(class_map_image(found, palette), _target(arguments, number, "-classes"))
        write_png(overlay(to_pil_image(image), found, palette), _target(arguments, number, "-overlay"))
        counts = found.flatten().bincount(minlength=len(names))
        shares = [
            {"class": names[i], "index": i, "share": round(int(counts[i]) / found.numel(), 6)}
            for i in counts.argsort(descending=True).tolist()
            if counts[i]
        ]
        files = {
            "map": _target(arguments, number, "-classes").name,
            "overlay": _target(arguments, number, "-overlay").name,
        }
        predictions.append({"image": str(arguments.images[number]), "classes": shares, **files})
    return report, ("image", "classes by share"), predictions


def _detect(arguments: argparse.Namespace, device: str) -> Predictions:
    import torch
    from torchvision.transforms.functional import to_pil_image

    from a2mamba.cli.images import write_png
    from a2mamba.recipes import load_trained
    from a2mamba.recipes.detection import run_of_model
    from a2mamba.visualize import draw_objects

    trained = _trained_run(arguments)
    classes = _numbers(_count_classes(arguments)) if trained is None else trained[1]
    config = run_of_model(arguments.name) if trained is None else trained[0]
    names = _names(arguments, classes)
    with without_load_notes():
        model, report = load_trained(config, arguments.checkpoint, classes=classes, device=device)
    images = _images(arguments)
    predictions: list[dict[str, Any]] = []
    for number, image in enumerate(track(images, "detecting")):
        with torch.inference_mode():
            (found,) = model([(image.float() / 255).to(device)])
        kept = {key: value[found["scores"] >= arguments.min_score].cpu() for key, value in found.items()}
        target = _target(arguments, number)
        scale = max(1.0, 480 / max(image.shape[1:]))
        write_png(draw_objects(to_pil_image(image), kept, names=names, scale=scale), target)
        objects = [
            {
                "class": names[label - 1],
                "label": label,
                "score": round(score, 6),
                "box": [round(corner, 2) for corner in box],
                "mask_pixels": int((mask >= 0.5).sum()),
            }
            for label, score, box, mask in zip(
                kept["labels"].tolist(), kept["scores"].tolist(), kept["boxes"].tolist(), kept["masks"], strict=True
            )
        ]
        predictions.append({"image": str(arguments.images[number]), "objects": objects, "drawing": target.name})
    return report, ("image", "objects", "class and score"), predictions


def _trained_run(arguments: argparse.Namespace) -> tuple[Any, list[str]] | None:
    """Return run and class names of a training checkpoint of ours; ValueError if it holds another model."""
    from a2mamba.recipes.trained import read_trained

    trained = read_trained(arguments.checkpoint)
    if trained is None:
        return None
    if trained.run.model.name != arguments.name:
        raise ValueError(
            f"{arguments.checkpoint} holds {trained.run.model.name}, not {arguments.name}; "
            f"use: a2mamba predict {trained.run.model.name} ..."
        )
    return trained.run, trained.classes


def _count_classes(arguments: argparse.Namespace) -> int:
    """Return the number of classes of a checkpoint that does not name them."""
    if arguments.classes is None:
        raise ValueError(
            f"{arguments.checkpoint} does not say which classes its model knows; give their names with --classes FILE"
        )
    return len(_read_names(arguments.classes))


def _model(arguments: argparse.Namespace, device: str) -> tuple[Any, ClassificationRun, list[str], str]:
    """Return the model in eval mode, the run whose preprocessing it wants, its class names, and what was loaded."""
    from dataclasses import replace

    import timm

    from a2mamba.backbone import create_model
    from a2mamba.recipes import find_recipe, load_trained
    from a2mamba.recipes.classification import checkpoint_classes

    trained = None if arguments.pretrained else _trained_run(arguments)
    if trained is not None:
        config, classes = trained
        model, report = load_trained(config, arguments.checkpoint, classes=classes, device=device)
        return model, config, _names(arguments, classes), report
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
    names = _read_names(arguments.classes)
    if len(names) != len(own):
        raise ValueError(f"{arguments.classes} names {len(names)} classes, the model has {len(own)}")
    return names


def _read_names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text; expected class names, one a line") from error
    return [line.strip() for line in lines if line.strip()]
