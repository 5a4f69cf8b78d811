"""`a2mamba eval [RECIPE] --checkpoint F`, for networks of all tasks."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say, track, without_load_notes
from a2mamba.weights import fetch_weights, find_weights

if TYPE_CHECKING:
    from torch import nn

    from a2mamba.tasks import TrainingRun


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "A training checkpoint of ours brings recipe and configuration along; key=value changes it, data.root say.\n"
        "Examples: a2mamba eval --checkpoint runs/digits/checkpoints/best.pt\n"
        "          a2mamba eval folder --checkpoint a2mamba_tiny.pth model.name=a2mamba_tiny data.root=/data/imagenet\n"
        "          a2mamba eval segman_small_cityscapes --pretrained cityscapes data.root=/data/cityscapes\n"
        "          a2mamba eval --checkpoint runs/in1k_nano/checkpoints/best.pt --sizes 224,512,1024\n"
        "          a2mamba eval --checkpoint runs/scenes/checkpoints/best.pt --ms --save-images out"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="[RECIPE] key=value",
        help="whose data to use, where the file does not say; changes to the recipe, typed",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", type=Path, help="weights: EMA weights are preferred")
    source.add_argument(
        "--pretrained", metavar="DATASET", help="the RECIPE's network with its released weights: a2mamba weights"
    )
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
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="append the result to a file that `a2mamba paper --results` reads"
    )
    parser.add_argument(
        "--sizes", type=_sizes, metavar="N,N", help="classification: at each of these image sides, as in Table VIII"
    )
    parser.add_argument("--per-class", action="store_true", help="segmentation, detection: a table of all classes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_device(parser)


OPTIONS = ("confusion", "test_mode", "ms", "save_images", "results", "per_class", "sizes")
"""Those that not every task takes."""


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; metrics in percent on stdout."""
    from a2mamba.files import replace_text
    from a2mamba.recipes import find_recipe, read_checkpoint
    from a2mamba.recipes.overrides import apply_overrides
    from a2mamba.tasks import refuse_options, task_of

    words: list[str] = arguments.overrides
    named = next((word for word in words if "=" not in word), None)
    recipe = None if named is None else find_recipe(named)
    arguments.checkpoint = checkpoint = arguments.checkpoint or _released(recipe, arguments.pretrained)
    content, trained = read_checkpoint(checkpoint)
    if trained is not None:
        if named not in (None, trained.recipe):
            raise ValueError(
                f"{checkpoint} was trained with the recipe {trained.recipe!r}; "
                f"use: a2mamba eval {trained.recipe} --checkpoint {checkpoint}"
            )
        config: Any = trained.run
    elif recipe is not None:
        config = recipe()
    else:
        raise ValueError(f"{checkpoint} does not say what it was trained on; name the RECIPE whose data to use")
    config = apply_overrides(config, [word for word in words if word is not named])
    task = task_of(config)
    refuse_options([name for name in OPTIONS if getattr(arguments, name)], task, lambda task: task.evaluation_options)
    if arguments.sizes and arguments.confusion is not None:
        raise ValueError("--confusion is of one image size; leave --sizes out")
    config = task.with_test_mode(config, arguments.test_mode, multi_scale=arguments.ms)
    device = choose_device(arguments.device)
    classes = task.held_out_classes(config) if trained is None else trained.classes
    with without_load_notes():
        model, report = task.load_model(config, content, classes, name=str(checkpoint), device=device)
    recipe_name = str(named if trained is None else trained.recipe)
    if arguments.sizes:
        status = _at_sizes(config, model, classes, recipe_name, device, arguments)
        say(str(report))
        return status
    evaluation = task.evaluation(config, classes, device=device)
    metrics = evaluation(model, track=lambda loader: track(loader, "evaluating", total=len(loader)))
    say(str(report))
    if arguments.confusion is not None:
        matrix = {"classes": list(classes), "matrix": evaluation.confusion()}
        replace_text(arguments.confusion, json.dumps(matrix))
    if arguments.results is not None:
        for path in evaluation.write_results(arguments.results):
            say(f"detections are in {path}")
    if arguments.save_images is not None:
        say(f"images are in {evaluation.write_images(model, arguments.save_images)}")
    _record(config, metrics, evaluation.images, recipe_name, arguments)
    table = evaluation.class_table() if arguments.per_class else []
    if arguments.json:
        result = {"checkpoint": str(checkpoint), "images": evaluation.images, **metrics}
        print_json(result | ({"classes": table} if arguments.per_class else {}))
        return 0
    print_table(("metric", "value"), [(name, f"{value:.3f}") for name, value in metrics.items()])
    if table:
        # Sizes are in the JSON: with them the table is wider than a terminal.
        columns = tuple(name for name in table[0] if not name.endswith(("_small", "_medium", "_large")))
        print_table(columns, [[_cell(row[column]) for column in columns] for row in table])
    return 0


def _released(recipe: Callable[[], TrainingRun] | None, dataset: str) -> Path:
    """The file of the released weights of a recipe's network."""
    if recipe is None:
        raise ValueError(
            "--pretrained needs the RECIPE whose network and data to use: a2mamba eval RECIPE --pretrained ..."
        )
    return fetch_weights(find_weights(recipe().model.name, dataset))


def _at_sizes(
    config: Any, model: nn.Module, classes: Sequence[str], recipe: str, device: str, arguments: argparse.Namespace
) -> int:
    """Evaluate one network at several image sides; print a row for each."""
    from a2mamba.recipes.overrides import apply_overrides
    from a2mamba.tasks import task_of

    rows: list[dict[str, float]] = []
    images = 0
    for size in arguments.sizes:
        resized = apply_overrides(config, [f"data.image_size={size}"])
        evaluation = task_of(resized).evaluation(resized, classes, device=device)
        what = f"evaluating at {size}"
        metrics = evaluation(model, track=lambda loader, what=what: track(loader, what, total=len(loader)))
        images = evaluation.images
        _record(resized, metrics, images, recipe, arguments)
        rows.append({"size": size, **metrics})
    if arguments.json:
        print_json({"checkpoint": str(arguments.checkpoint), "images": images, "sizes": rows})
        return 0
    names = list(rows[0])
    print_table(names, [[f"{row[name]:.3f}" if name != "size" else str(row[name]) for name in names] for row in rows])
    return 0


def _record(config: Any, metrics: Mapping[str, float], images: int, recipe: str, arguments: argparse.Namespace) -> None:
    """Append a result to the file of --record, where there is one."""
    if arguments.record is None:
        return
    from a2mamba.paper import network_name, record_result

    record_result(
        arguments.record,
        recipe=recipe,
        model=network_name(config.model),
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        images=images,
        image_size=getattr(config.data, "image_size", None),
        multi_scale=arguments.ms,
        checkpoint=str(arguments.checkpoint),
    )
    say(f"recorded in {arguments.record}")


def _sizes(text: str) -> list[int]:
    """The numbers of 224,512,1024."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"must be image sides in pixels, such as 224,512,1024, got {text!r}")
    return [int(word) for word in words]


def _cell(value: Any) -> str:
    if value is None or value != value:  # a class that does not occur
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
