"""`a2mamba export CHECKPOINT --format onnx`: a network as a file for another runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from a2mamba.cli.output import print_json, print_table, say, without_load_notes
from a2mamba.weights import dataset_in_words, has_released_weights

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml", "aot": ".pt2", "coreml": ".mlpackage", "web": ""}
"""Format -> what its files end in; as in `a2mamba.export.FORMATS`, which is not imported for --help. "web" is a folder:
a page around an ONNX file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "The file is run beside the network before it is kept, on random images and on those of --images. A JSON\n"
        "file beside it says what it takes and returns. docs/export.md has a script that serves it without PyTorch.\n"
        "Examples: a2mamba export runs/digits/checkpoints/best.pt --format onnx\n"
        "          a2mamba export segman_t.pth --name segman_tiny --format openvino --size 512 512\n"
        "          a2mamba export runs/x/checkpoints/best.pt --out model.onnx --output class_map --pixels\n"
        "          a2mamba export --checkpoint runs/x/checkpoints/best.pt --format web page\n"
        "          a2mamba export segman_small --pretrained cityscapes --size 1024 1024"
    )
    parser.add_argument("words", nargs="*", metavar="CHECKPOINT", help="a file of weights, as for predict, then --out")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--checkpoint", metavar="FILE", help="the same, as an option")
    source.add_argument(
        "--pretrained",
        action="store_true",
        help="the released weights of the network that CHECKPOINT names; a word behind it may be the data set",
    )
    parser.add_argument("--name", help="of the network, where the file does not say")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="class names, one a line, where the file has none")
    parser.add_argument("--format", choices=list(SUFFIXES), help="default: by the suffix of --out, or onnx")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: the checkpoint's name, in this folder")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of the images that the file takes; default: as trained"
    )
    parser.add_argument(
        "--output",
        choices=["logits", "class_map", "features", "detections"],
        help="logits (default), a segmenter's class of every pixel, the maps of a backbone, or what detectors return",
    )
    parser.add_argument(
        "--pixels", action="store_true", help="take uint8 (B, H, W, C) and normalize it inside, not normalized images"
    )
    parser.add_argument("--images", nargs="+", default=[], metavar="IMAGE", help="files, folders, globs to compare on")
    parser.add_argument("--tolerance", type=float, help="largest difference, by the output's largest value; 1e-4")
    parser.add_argument(
        "--runtime", type=Path, metavar="DIR", help="web: a folder of onnxruntime-web, or its .tgz; default: downloaded"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON file's content on stdout")


def run(arguments: argparse.Namespace) -> int:
    """Export; what was written and compared on stdout."""
    from a2mamba.export import TOLERANCE
    from a2mamba.predictor import load

    source, dataset, out = _places(arguments)
    web = arguments.format == "web"
    if web and (arguments.output is not None or arguments.pixels):
        raise ValueError("--format web chooses what the file takes and returns; leave --output and --pixels out")
    if arguments.runtime is not None and not web:
        raise ValueError("--runtime is for --format web")
    with without_load_notes():
        predictor = load(source, name=arguments.name, pretrained=dataset, classes=arguments.classes, device="cpu")
    size = None if arguments.size is None else tuple(arguments.size)
    tolerance = TOLERANCE if arguments.tolerance is None else arguments.tolerance
    if web:
        exported = predictor.export_page(
            out, size=size, images=arguments.images, tolerance=tolerance, runtime=arguments.runtime
        )
    else:
        exported = predictor.export(
            out,
            format=arguments.format,
            size=size,
            output=arguments.output,
            pixels=arguments.pixels,
            images=arguments.images,
            tolerance=tolerance,
        )
    say(predictor.report)
    description, comparison = exported.description, exported.comparison
    if arguments.json:
        print_json(description)
        return 0
    rows = [
        ("size", "{} x {}".format(*description["size"])),
        ("input", "{name}: {dtype} {shape}".format(**description["input"])),
        ("outputs", ", ".join(description["outputs"])),
        ("bytes", f"{description['bytes']:,}"),
        *([("nodes", f"{description['nodes']:,}")] if "nodes" in description else []),
        ("compared", description["compared"]),
        ("loaded in", f"{description['load_seconds']:.2f} s"),
        ("largest difference", f"{comparison.difference:.2g}, allowed {description['tolerance']:.2g}"),
        ("one image, 2 threads", f"{comparison.file_ms:.1f} ms; the network itself {comparison.eager_ms:.1f} ms"),
    ]
    print_table((str(exported.path), ""), rows)
    say(f"look at it: python -m http.server --directory {out}" if web else f"{exported.sidecar} describes it")
    return 0


def _places(arguments: argparse.Namespace) -> tuple[str, str | None, Path]:
    """The file of weights, or network and data set, and where to write; the one word that is left is where."""
    words = list(arguments.words)
    if arguments.checkpoint is None and not words:
        raise ValueError("one of the arguments CHECKPOINT --checkpoint is required")
    source = words.pop(0) if arguments.checkpoint is None else arguments.checkpoint
    dataset, words = dataset_in_words(source, words) if arguments.pretrained else (None, words)
    if arguments.pretrained and not has_released_weights(source):
        raise ValueError(
            f"--pretrained needs the name of a network with released weights, not {source}: a2mamba weights"
        )
    if len(words) > (arguments.out is None):
        raise ValueError(f"{' '.join(words)!r}: expected one CHECKPOINT, and one place to write, here or with --out")
    if words:
        return source, dataset, Path(words[0])
    stem = Path(source).stem if dataset is None else f"{source}_{dataset}"
    return source, dataset, arguments.out or Path(stem + SUFFIXES[arguments.format or "onnx"])
