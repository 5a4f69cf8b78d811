"""`a2mamba explain [NAME] --checkpoint F IMAGES --out DIR`: what a network looks at."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.inputs import add_network_and_images, image_files, network_and_images
from a2mamba.cli.output import print_json, print_table, say, without_load_notes
from a2mamba.cli.page import STYLE
from a2mamba.weights import dataset_in_words

if TYPE_CHECKING:
    from torch import Tensor

    from a2mamba.explain import Drawing
    from a2mamba.predictor import Predictor
    from a2mamba.tasks import View

KINDS = ("attention", "states", "grad-cam", "features", "receptive-field")
_CLASSES_OF_RANDOM = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Writes a PNG of each kind for every image, explain.html with all of them and explain.json:\n"
        "  attention        where a pixel looks, by both branches of every stage\n"
        "  states           hidden states of the scans, before and after the attention maps aggregate them\n"
        "  grad-cam         which part of the image speaks for a class\n"
        "  features         principal components of each stage's map as colors\n"
        "  receptive-field  how much each pixel moves the middle of the last map, averaged over all images\n"
        "Without --kind, all that the network has. Points are pixels of the image as the network sees it.\n"
        "Examples: a2mamba explain --checkpoint runs/digits/checkpoints/best.pt a.png --out out --point 20 12\n"
        "          a2mamba explain a2mamba_tiny --pretrained photo.jpg --out out --kind attention grad-cam\n"
        "          a2mamba explain segman_small --pretrained cityscapes photo.jpg --out out --kind grad-cam\n"
        "          a2mamba explain a2mamba_tiny --random photos --out out --kind receptive-field --beside convnext_tiny"
    )
    source = add_network_and_images(parser)
    source.add_argument("--random", action="store_true", help="random weights: what NAME's design does by itself")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--kind", nargs="+", choices=KINDS, metavar="KIND", help=f"some of {', '.join(KINDS)}")
    parser.add_argument(
        "--point", nargs=2, type=int, metavar=("X", "Y"), help="attention: the pixel that looks; default: the middle"
    )
    parser.add_argument("--class", dest="class_name", metavar="CLASS", help="grad-cam: name or number; default: seen")
    parser.add_argument("--stage", type=int, choices=range(1, 5), default=4, help="grad-cam: of which (default 4)")
    parser.add_argument(
        "--beside", nargs="+", default=[], metavar="MODEL", help="receptive-field: models of timm beside this one"
    )
    parser.add_argument("--json", action="store_true", help="print explain.json on stdout too")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Explain; files in the folder, what was written on stdout."""
    from a2mamba.explain import check_timm_name
    from a2mamba.files import replace_text

    name, words = network_and_images(arguments.images)
    dataset = None
    if arguments.pretrained and name is not None:
        dataset, words = dataset_in_words(name, words)
    files = image_files(words)
    kinds = arguments.kind or list(KINDS)
    for option, kind in (("point", "attention"), ("class_name", "grad-cam"), ("beside", "receptive-field")):
        if getattr(arguments, option) and kind not in kinds:
            raise ValueError(f"--{option.removesuffix('_name')} is for --kind {kind}, which is not asked for")
    for model in arguments.beside:
        check_timm_name(model)
    with without_load_notes():
        predictor = _predictor(name, dataset, arguments)
    class_index = None if arguments.class_name is None else _class(arguments.class_name, predictor.classes)
    sections: list[dict[str, Any]] = []
    seen: list[View] = []
    for number, file in enumerate(files):
        view = predictor.view(file)
        seen.append(view)
        stem = f"{number:04d}-{file.stem}"
        drawings = _of_one_image(predictor, view, kinds, class_index, arguments)
        sections.append({"image": str(file), "drawings": list(_written(drawings, stem, arguments.out))})
        say(f"{file}: {', '.join(each['kind'] for each in sections[-1]['drawings']) or 'nothing for it alone'}")
    if "receptive-field" in kinds:
        say(f"receptive field: gradients of {len(seen)} images, {1 + len(arguments.beside)} networks")
        drawing, sides = _receptive_field(predictor, seen, arguments)
        entries = list(_written([drawing], "all", arguments.out))
        sections.append({"image": None, "drawings": entries, "sides": sides})
    result = {"model": predictor.run.model.name, "weights": predictor.report, "explanations": sections}
    replace_text(arguments.out / "explain.json", json.dumps(result, indent=2))
    replace_text(arguments.out / "explain.html", _page(result, arguments.out))
    say(predictor.report)
    if arguments.json:
        print_json(result)
    else:
        rows = [(s["image"] or "all images", each["kind"], each["file"]) for s in sections for each in s["drawings"]]
        print_table(("image", "explanation", "file"), rows)
        say(f"{arguments.out / 'explain.html'} shows them")
    return 0


def _predictor(name: str | None, dataset: str | None, arguments: argparse.Namespace) -> Predictor:
    """The network in a file, the released one, or one with random weights."""
    from a2mamba.predictor import Predictor, load
    from a2mamba.tasks import PredictionOptions, task_of_network

    if arguments.checkpoint is not None:
        return load(arguments.checkpoint, name=name, device=arguments.device)
    if name is None:
        option = "--pretrained" if arguments.pretrained else "--random"
        raise ValueError(f"{option} needs the name of a network: a2mamba explain NAME {option} IMAGE ...")
    if arguments.pretrained:
        return load(name, pretrained=dataset, device=arguments.device)
    task, device = task_of_network(name), choose_device(arguments.device)
    run = task.run_of_network(name)
    classes = [f"class {i}" for i in range(_CLASSES_OF_RANDOM)]
    model = task.build_model(run, classes).eval().to(device)
    return Predictor(
        model, run, classes, device=device, report="random weights", precision="float32", options=PredictionOptions()
    )


def _class(word: str, classes: Sequence[str]) -> int:
    """The class that a name or a number from 0 means."""
    from a2mamba.near_names import did_you_mean

    if word in classes:
        return list(classes).index(word)
    if word.isascii() and word.isdigit() and int(word) < len(classes):
        return int(word)
    raise ValueError(
        f"no class {word!r}; {did_you_mean(word, classes, otherwise=f'or give a number from 0 to {len(classes) - 1}')}"
    )


def _of_one_image(
    predictor: Predictor, view: View, kinds: Sequence[str], class_index: int | None, arguments: argparse.Namespace
) -> Iterator[Drawing]:
    """Yield what an image alone shows; what a network lacks is left out unless it was asked for."""
    from a2mamba import explain

    model, image, batch = predictor.model, view.image, view.batch
    point = (image.width // 2, image.height // 2) if arguments.point is None else tuple(arguments.point)
    if not (0 <= point[0] < image.width and 0 <= point[1] < image.height):
        raise ValueError(
            f"--point {point[0]} {point[1]} is outside the image as the network sees it, which is {image.width} x "
            f"{image.height} pixels"
        )

    def grad_cam() -> Drawing:
        found = explain.grad_cam(model, batch, class_index=class_index, stage=arguments.stage - 1)
        return explain.draw_grad_cam(image, found, predictor.classes)

    def features() -> Drawing:
        colors = [explain.principal_colors(each) for each in explain.stage_maps(model, batch)]
        return explain.draw_features(image, colors)

    makers: dict[str, Callable[[], Drawing]] = {
        "attention": lambda: explain.draw_attention(image, explain.attention_maps(model, batch, point), point),
        "states": lambda: explain.draw_states(image, explain.hidden_states(model, batch)),
        "grad-cam": grad_cam,
        "features": features,
    }
    for kind, make in makers.items():
        if kind not in kinds:
            continue
        try:
            yield make()
        except ValueError as error:
            if arguments.kind:
                raise
            say(f"{kind} is left out: {error}")


def _receptive_field(
    predictor: Predictor, seen: Sequence[View], arguments: argparse.Namespace
) -> tuple[Drawing, dict[str, Any]]:
    """The drawing of the effective receptive fields of all networks, and the squares that hold their shares."""
    from torch.nn import functional as F

    from a2mamba import explain
    from a2mamba.explain.drawing import SHARES

    size = (seen[0].batch.shape[2], seen[0].batch.shape[3])
    images = [F.interpolate(view.batch, size, mode="bilinear", align_corners=False)[0] for view in seen]
    features = {predictor.run.model.name: explain.last_map(predictor.model)}
    mean, std = seen[0].mean, seen[0].std
    for name in arguments.beside:
        network = explain.timm_features(name, size, mean=mean, std=std, pretrained=not arguments.random)
        features[name] = network.to(predictor.device)
    fields: dict[str, Tensor] = {}
    for name, function in features.items():
        fields[name] = explain.effective_receptive_field(function, images)
    several = f"{len(images)} images" if len(images) > 1 else "one image"
    weights = "; all weights are random" if arguments.random else ""
    drawing = explain.draw_receptive_fields(fields, several + weights)
    sides = {
        name: {f"{share:g}": explain.side_holding(field, share) for share in SHARES} for name, field in fields.items()
    }
    return drawing, sides


def _written(drawings: Iterator[Drawing] | Sequence[Drawing], stem: str, folder: Path) -> Iterator[dict[str, str]]:
    """Write drawings as PNG files; yield what explain.json says of each."""
    from a2mamba.visualize import write_png

    for drawing in drawings:
        file = f"{stem}-{drawing.name}.png"
        write_png(drawing.image, folder / file)
        yield {"kind": drawing.name, "file": file, "title": drawing.title, "caption": drawing.caption}


def _page(result: dict[str, Any], folder: Path) -> str:
    """Return explain.html: the images of ``folder`` that the result names are in it."""
    body = "".join(
        f"<section><h2>{escape(Path(section['image']).name if section['image'] else 'Over all images')}</h2>"
        + "".join(_figure(each, folder) for each in section["drawings"])
        + "</section>"
        for section in result["explanations"]
        if section["drawings"]
    )
    title = f"What {escape(result['model'])} looks at"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body><main>"
        f'<header><p class="kicker">a2mamba explain</p><h1>{title}</h1><p>{escape(result["weights"])}</p></header>'
        f"{body}</main></body></html>\n"
    )


def _figure(entry: dict[str, str], folder: Path) -> str:
    image = base64.b64encode((folder / entry["file"]).read_bytes()).decode()
    return (
        f'<figure class="shown"><figcaption>{escape(entry["title"])}</figcaption><p>{escape(entry["caption"])}</p>'
        f'<img src="data:image/png;base64,{image}" alt="{escape(entry["title"])}"></figure>'
    )
