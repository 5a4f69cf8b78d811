"""The figures of docs/export.md: what is written, how far it is from the network, and how fast it runs.

    python benchmarks/exports.py parity --out /tmp/export [--only a2mamba_tiny-224x224.onnx ...]
    python benchmarks/exports.py speed --out /tmp/export [--seconds 240]
    python benchmarks/exports.py files --out /tmp/export
    python benchmarks/exports.py table --out /tmp/export

``parity`` writes every case, batch 1 and 3, and adds a line to parity.jsonl after each: cases that are in it are left
out, so that it can be interrupted. ``speed`` runs our tiny and networks of its size, in PyTorch, ONNX Runtime and
OpenVINO, in turns, on two threads, one image of 224 x 224, and writes speed.json, with the machine, sizes and times to
load. Files that it finds in the folder are not written again; ``files`` writes them beforehand, and measures nothing.
``table`` prints both records as Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from torch import nn

import a2mamba
from a2mamba.analysis.environment import environment
from a2mamba.detection import Detector
from a2mamba.export import FORMATS, export_model
from a2mamba.export.format import Run
from a2mamba.export.formats import OnnxFormat, OpenVinoFormat
from a2mamba.export.program import trace

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
OURS = "a2mamba_tiny"
OTHERS = ("convnext_tiny", "swin_tiny_patch4_window7_224", "repvit_m1_5")
RUNTIMES = {"ONNX Runtime": "onnx", "OpenVINO": "openvino"}
"""Name -> format of the files that it reads"""


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
        about |= timed_load(exported.path, exported.description["format"])[1]
        about["model"] = case.model
        with record.open("a") as file:
            file.write(json.dumps(about) + "\n")
        print(f"{case.file}: difference {about['difference']:.2g}, {time.perf_counter() - started:.0f} s", flush=True)


def rival(name: str) -> nn.Module:
    """A network that is compared for speed, folded as far as it can be."""
    if name == OURS:
        return a2mamba.fuse_for_inference(make(name))
    model = timm.create_model(name).eval()
    return timm.utils.reparameterize_model(model) if name.startswith("repvit") else model


def files_of(out: Path, name: str) -> dict[str, Path]:
    """Runtime -> the file of a network that is compared for speed; those that are not there are written."""
    found = {runtime: out / f"speed-{name}{FORMATS[format].suffix}" for runtime, format in RUNTIMES.items()}
    onnx, openvino = found.values()
    if not onnx.exists():
        network = OnnxFormat().prepare(rival(name))
        OnnxFormat().write(trace(network, torch.randn(2, 3, 224, 224)), onnx, ["logits"])
        print(f"{onnx} is written", flush=True)
    if not openvino.exists():
        OpenVinoFormat().convert(onnx, openvino)
        print(f"{openvino} is written", flush=True)
    return found


def speed(out: Path, seconds: float) -> None:
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    loaded: dict[tuple[str, str], dict[str, float]] = {}
    images = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    tensor = torch.from_numpy(images)
    torch.set_num_threads(THREADS)
    for name in (OURS, *OTHERS):
        runs[name, "PyTorch"] = partial(rival(name), tensor)
        for runtime, path in files_of(out, name).items():
            run, loaded[name, runtime] = timed_load(path, RUNTIMES[runtime])
            runs[name, runtime] = partial(run, images)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    load_before, started = os.getloadavg(), time.perf_counter()
    with torch.inference_mode():
        for each in runs.values():
            each()
        while time.perf_counter() - started < seconds or len(times[OURS, "PyTorch"]) < 5:
            for key, each in runs.items():
                before = time.perf_counter()
                each()
                times[key].append(1e3 * (time.perf_counter() - before))
    rows = [
        {
            "model": name,
            "runtime": runtime,
            "ms": float(np.median(taken)),
            "least_ms": min(taken),
            "runs": len(taken),
            **loaded.get((name, runtime), {}),
        }
        for (name, runtime), taken in times.items()
    ]
    about = environment("cpu") | {"load_before": load_before, "load_after": os.getloadavg()}
    (out / "speed.json").write_text(json.dumps({"environment": about, "rows": rows}, indent=2))


def timed_load(path: Path, format: str) -> tuple[Run, dict[str, float]]:
    """Return what runs a file, its size, and the seconds, on the clock and of the processor, that loading took.

    The runtime itself is imported already.
    """
    importlib.import_module({"onnx": "onnxruntime"}.get(format, format))
    wall, processor = time.perf_counter(), time.process_time()
    run = FORMATS[format].load(path, THREADS)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    parts = (path, path.with_suffix(".bin")) if format == "openvino" else (path,)
    size = sum(part.stat().st_size for part in parts)
    return run, {"bytes": size, "load_seconds": wall, "load_processor_seconds": processor}


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
    if (out / "speed.json").exists():
        record = json.loads((out / "speed.json").read_text())
        about, rows = record["environment"], {(row["model"], row["runtime"]): row for row in record["rows"]}
        print(
            "\n{}, {} threads, load {:.1f} to {:.1f}; milliseconds an image, the median\n".format(
                about["device"], about["threads"], about["load_before"][0], about["load_after"][0]
            )
        )
        print("| network | PyTorch | " + " | ".join(f"{runtime} | MB | loaded in" for runtime in RUNTIMES) + " |")
        print("|---" * (2 + 3 * len(RUNTIMES)) + "|")
        for name in (OURS, *OTHERS):
            cells = [f"{rows[name, 'PyTorch']['ms']:.1f}"]
            for row in (rows[name, runtime] for runtime in RUNTIMES):
                cells += [f"{row['ms']:.1f}", f"{row['bytes'] / 1e6:.0f}", f"{row['load_seconds']:.1f} s"]
            print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["parity", "files", "speed", "table"])
    parser.add_argument("--out", type=Path, required=True, help="folder of the files and records")
    parser.add_argument("--only", nargs="+", default=[], metavar="FILE", help="parity: these cases")
    parser.add_argument("--seconds", type=float, default=120, help="speed: to measure for")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.what == "parity":
        parity(arguments.out, arguments.only)
    elif arguments.what == "files":
        for name in (OURS, *OTHERS):
            files_of(arguments.out, name)
    elif arguments.what == "speed":
        speed(arguments.out, arguments.seconds)
    else:
        table(arguments.out)


if __name__ == "__main__":
    main()
