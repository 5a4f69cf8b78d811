"""The table of docs/export.md: what is written, how far it is from the network, and how long it takes to load.

    python benchmarks/exports.py parity --out /tmp/export [--only a2mamba_tiny-224x224.onnx ...]
    python benchmarks/exports.py table --out /tmp/export

``parity`` writes every case, batch 1 and 3, and adds a line to parity.jsonl after each: cases that are in it are left
out, so that it can be interrupted. ``table`` prints the record as Markdown. How fast files run, `a2mamba bench
--runtimes` measures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import a2mamba
from a2mamba.detection import Detector
from a2mamba.export import FORMATS, export_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
THREADS = 2


class Case(NamedTuple):
    model: str
    size: tuple[int, int]
    suffix: str = ".onnx"

    @property
    def file(self) -> str:
        return "{}-{}x{}{}".format(self.model, *self.size, self.suffix)


CASES = [
    Case("a2mamba_nano", (224, 224)),
    Case("a2mamba_tiny", (224, 224)),
    Case("mask_rcnn_a2mamba_nano", (320, 320)),
    Case("segman_tiny", (512, 512)),
    Case("a2mamba_nano", (224, 224), ".xml"),
    Case("a2mamba_tiny", (384, 512)),
    Case("a2mamba_small", (224, 224)),
    Case("segman_v2_nano", (512, 512)),
    Case("upernet_a2mamba_nano", (512, 512)),
    Case("segman_tiny", (512, 512), ".xml"),
    Case("a2mamba_nano", (384, 512)),
    Case("a2mamba_small", (384, 512)),
    Case("cascade_mask_rcnn_a2mamba_nano", (320, 320)),
]


def make(name: str) -> nn.Module:
    """A network whose random weights let every part count, and whose classes differ."""
    torch.manual_seed(0)
    if "mask_rcnn" in name:
        model: nn.Module = a2mamba.create_detector(name, num_classes=8)
    elif name.startswith("a2mamba"):
        model = a2mamba.create_model(name)
    else:
        model = a2mamba.create_segmenter(name, num_classes=150)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "layer_scale" in key:
                parameter.uniform_(0.5, 1)
            elif isinstance(model, Detector) and key.startswith(("rpn", "roi_heads")) and parameter.dim() > 1:
                gain = 4.0 if key.endswith("class_logits.weight") else 0.3 if "bbox" in key or "deltas" in key else 1.0
                parameter.normal_(std=gain / parameter[0].numel() ** 0.5)
    return model.eval()


def parity(out: Path, only: list[str]) -> None:
    record = out / "parity.jsonl"
    done = {json.loads(line)["file"] for line in record.read_text().splitlines()} if record.exists() else set()
    for case in CASES:
        if case.file in done or (only and case.file not in only):
            continue
        model = make(case.model)
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        started = time.perf_counter()
        exported = export_model(model, out / case.file, size=case.size, mean=MEAN, std=STD)
        about = exported.description | {"weights": weights, "seconds": time.perf_counter() - started}
        about |= load_cost(exported.path, exported.description["format"])
        about["model"] = case.model
        with record.open("a") as file:
            file.write(json.dumps(about) + "\n")
        print(f"{case.file}: difference {about['difference']:.2g}, {time.perf_counter() - started:.0f} s", flush=True)


def load_cost(path: Path, format: str) -> dict[str, float]:
    """Return the size of a file, and the seconds, on the clock and of the processor, that loading it takes.

    The runtime itself is imported already.
    """
    importlib.import_module({"onnx": "onnxruntime"}.get(format, format))
    wall, processor = time.perf_counter(), time.process_time()
    FORMATS[format].load(path, THREADS)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    parts = (path, path.with_suffix(".bin")) if format == "openvino" else (path,)
    size = sum(part.stat().st_size for part in parts)
    return {"bytes": size, "load_seconds": wall, "load_processor_seconds": processor}


def table(out: Path) -> None:
    if (out / "parity.jsonl").exists():
        print("| network | size | file | largest difference | MB | of them weights | nodes | loaded in | processor |")
        print("|---|---|---|---|---|---|---|---|---|")
        for line in (out / "parity.jsonl").read_text().splitlines():
            row = json.loads(line)
            megabytes, weights = (f"{row[key] / 1e6:.0f}" for key in ("bytes", "weights"))
            nodes = f"{row['nodes']:,}" if "nodes" in row else ""
            size = "{} x {}".format(*row["size"])
            print(
                f"| {row['model']} | {size} | {row['format']} | {row['difference']:.1g} | {megabytes} | {weights} "
                f"| {nodes} | {row['load_seconds']:.1f} s | {row['load_processor_seconds']:.1f} s |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["parity", "table"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the files and records")
    parser.add_argument("--only", nargs="+", default=[], metavar="FILE", help="parity: these cases")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.what == "parity":
        parity(arguments.out, arguments.only)
    else:
        table(arguments.out)


if __name__ == "__main__":
    main()
