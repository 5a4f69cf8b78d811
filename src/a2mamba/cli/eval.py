"""`a2mamba eval RECIPE --checkpoint F`, for all three tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say, track, without_load_notes

if TYPE_CHECKING:
    from a2mamba.recipes.classification import ClassificationRun
    from a2mamba.recipes.detection import DetectionRun
    from a2mamba.recipes.segmentation import SegmentationRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "A training checkpoint of ours brings its configuration along; key=value changes it, data.root say.\n"
        "Examples: a2mamba eval digits --checkpoint runs/digits/checkpoints/best.pt\n"
        "          a2mamba eval folder --checkpoint a2mamba_tiny.pth model.name=a2mamba_tiny data.root=/data/imagenet\n"
        "          a2mamba eval scenes --checkpoint runs/scenes/checkpoints/best.pt --ms --save-images out"
    )
    parser.add_argument("recipe", help="the recipe that the checkpoint was trained with, or whose data to use")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe, typed")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights: EMA weights are preferred")
    parser.add_argument("--confusion", type=Path, metavar="FILE", help="write the confusion matrix as JSON")
    parser.add_argument(
        "--test-mode", metavar="NAME", help="segmentation: how images are looked at; image, ade20k, cityscapes, ..."
    )
    parser.add_argument("--ms", action="store_true", help="segmentation: six scales, each with its mirror image")
    parser.add_argument(
        "--save-images", type=Path, metavar="DIR", help="segmentation, detection: write images of results there"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="detection: write the detections in COCO's result format"
    )
    parser.add_argument("--per-class", action="store_true", help="segmentation, detection: a table of all classes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_device(parser)


class Outcome(NamedTuple):
    """What an evaluation found: what was loaded, metrics in percent, the number of images, a table of classes."""

    report: str
    metrics: dict[str, float]
    images: int
    classes: list[dict[str, Any]]


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; metrics in percent on stdout."""
    from a2mamba.recipes import find_recipe
    from a2mamba.recipes.overrides import apply_overrides
    from a2mamba.recipes.trained import read_trained

    recipe = find_recipe(arguments.recipe)
    trained = read_trained(arguments.checkpoint)
    if trained is not None and trained.recipe != arguments.recipe:
        raise ValueError(
            f"{arguments.checkpoint} was trained with the recipe {trained.recipe!r}; "
            f"use: a2mamba eval {trained.recipe} --checkpoint {arguments.checkpoint}"
        )
    config: Any = apply_overrides(recipe() if trained is None else trained.run, arguments.overrides)
    _refuse_options_of_others(arguments, config.task)
    classes = None if trained is None else trained.classes
    device = choose_device(arguments.device)
    evaluations: dict[str, Callable[..., Outcome]] = {
        "classification": _classification,
        "segmentation": _segmentation,
        "detection": _detection,
    }
    outcome = evaluations[config.task](config, arguments, classes, device)
    say(outcome.report)
    if arguments.json:
        result = {"checkpoint": str(arguments.checkpoint), "images": outcome.images, **outcome.metrics}
        print_json(result | ({"classes": outcome.classes} if arguments.per_class else {}))
        return 0
    print_table(("metric", "value"), [(name, f"{value:.3f}") for name, value in outcome.metrics.items()])
    if arguments.per_class:
        # Sizes are in the JSON: with them the table is wider than a terminal.
        columns = tuple(name for name in outcome.classes[0] if not name.endswith(("_small", "_medium", "_large")))
        print_table(columns, [[_cell(row[column]) for column in columns] for row in outcome.classes])
    return 0


def _cell(value: Any) -> str:
    if value is None or value != value:  # a class that does not occur
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _refuse_options_of_others(arguments: argparse.Namespace, task: str) -> None:
    owners = {
        "confusion": ("classification", "segmentation"),
        "test_mode": ("segmentation",),
        "ms": ("segmentation",),
        "images": ("segmentation", "detection"),
        "results": ("detection",),
        "per_class": ("segmentation", "detection"),
    }
    for option, tasks in owners.items():
        if getattr(arguments, option) and task not in tasks:
            raise ValueError(f"--{option.replace('_', '-')} is for {' and '.join(tasks)}; this is a recipe of {task}")


def _classification(
    config: ClassificationRun, arguments: argparse.Namespace, classes: list[str] | None, device: str
) -> Outcome:
    from a2mamba.data import eval_loader, split_classes
    from a2mamba.evaluation import ConfusionMatrix, TopK
    from a2mamba.recipes import load_trained
    from a2mamba.recipes.classification import evaluate

    classes = classes or split_classes(config.data, config.data.val_split)
    with without_load_notes():
        model, report = load_trained(config, arguments.checkpoint, classes=classes, device=device)
    matrix = ConfusionMatrix(len(classes))
    loader = eval_loader(config.data, classes=classes)
    results = dict(evaluate(model, config, track(loader, "evaluating"), [TopK(), matrix], device=device))
    _write_confusion(arguments, classes, matrix.matrix.tolist())
    return Outcome(report, results, int(matrix.matrix.sum()), [])


def _segmentation(
    config: SegmentationRun, arguments: argparse.Namespace, classes: list[str] | None, device: str
) -> Outcome:
    from a2mamba.data import eval_segmentation_loader, segmentation_classes
    from a2mamba.evaluation import MeanIoU
    from a2mamba.recipes import load_trained
    from a2mamba.recipes.segmentation import evaluate
    from a2mamba.segmentation.inference import SCALES, find_test_mode

    if arguments.test_mode is not None:
        config = replace(config, test=find_test_mode(arguments.test_mode))
    if arguments.ms:
        config = replace(config, test=replace(config.test, scales=SCALES, flip=True))
    classes = classes or segmentation_classes(config.data)
    with without_load_notes():
        model, report = load_trained(config, arguments.checkpoint, classes=classes, device=device)
    loader = eval_segmentation_loader(config.data, classes=classes)
    metric = MeanIoU(len(classes))
    results = dict(evaluate(model, config, track(loader, "evaluating"), metric, device=device))
    _write_confusion(arguments, classes, metric.matrix.tolist())
    if arguments.save_images is not None:
        from a2mamba.cli.images import write_segmentation_grid

        target = write_segmentation_grid(model, config, loader, classes, arguments.save_images, device=device)
        say(f"images are in {target}")
    iou, accuracy = (100 * values for values in (metric.iou(), metric.accuracy()))
    table = [
        {"class": name, "iou": float(i), "accuracy": float(a)}
        for name, i, a in zip(classes, iou, accuracy, strict=True)
    ]
    return Outcome(report, results, len(loader), table)


def _detection(config: DetectionRun, arguments: argparse.Namespace, classes: list[str] | None, device: str) -> Outcome:
    from a2mamba.data import detection_categories, eval_detection_loader
    from a2mamba.evaluation import CocoMetric
    from a2mamba.recipes import load_trained
    from a2mamba.recipes.detection import evaluate, metric_types

    truth = config.data.val_paths()[1]
    categories = detection_categories(truth)
    names = [category.name for category in categories]
    if classes is not None and classes != names:
        raise ValueError(
            f"{arguments.checkpoint} was trained on the classes {', '.join(classes[:5])}...; {truth} has "
            f"{', '.join(names[:5])}...; both need the same categories"
        )
    with without_load_notes():
        model, report = load_trained(config, arguments.checkpoint, classes=names, device=device)
    loader = eval_detection_loader(config.data, categories=categories)
    metric = CocoMetric(truth, iou_types=metric_types(config))
    results = dict(evaluate(model, track(loader, "evaluating"), metric, device=device))
    if arguments.results is not None:
        for path in metric.write_results(arguments.results):
            say(f"detections are in {path}")
    if arguments.save_images is not None:
        from a2mamba.cli.images import write_object_images

        target = write_object_images(config, metric, arguments.save_images)
        say(f"images are in {target}")
    table: list[dict[str, Any]] = []
    if arguments.per_class:
        kinds = {kind: {row.name: row for row in metric.per_class(kind)} for kind in metric.iou_types}
        for name in names:
            row: dict[str, Any] = {"class": name}
            for kind, rows in kinds.items():
                prefix = "box" if kind == "bbox" else "mask"
                row |= {f"{prefix}_{key}": value for key, value in rows[name]._asdict().items() if key.startswith("ap")}
            table.append(row)
    return Outcome(report, results, len(metric.image_ids), table)


def _write_confusion(arguments: argparse.Namespace, classes: Iterable[str], matrix: list[list[int]]) -> None:
    if arguments.confusion is not None:
        from a2mamba.files import replace_text

        replace_text(arguments.confusion, json.dumps({"classes": list(classes), "matrix": matrix}))
