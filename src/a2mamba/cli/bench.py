"""`a2mamba bench`."""

from __future__ import annotations

import argparse
import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, print_table, say
from a2mamba.near_names import did_you_mean

if TYPE_CHECKING:
    from a2mamba.analysis.throughput import Row


PEERS = ("convnext_tiny", "repvit_m1_5", "hgnetv2_b4", "efficientvim_m4", "cpubone_b1_bfrobust")
"""What one would run on a CPU instead, where timm has it."""
RUNTIMES = {"pytorch": "PyTorch", "graph": "a graph", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
"""Of `analysis.runners`, with their names."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "The first model is the yardstick. All are timed in turn, in one run; on a CPU each has a process of its own.\n"
        "Example: a2mamba bench --models convnext_tiny a2mamba_tiny a2mamba_nano --sizes 224 --batch 8 --threads 2"
    )
    parser.add_argument("--models", nargs="+", default=["convnext_tiny", "a2mamba_tiny"], help="ours, and timm's")
    parser.add_argument("--peers", action="store_true", help=f"measure too: {', '.join(PEERS)}")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224], help="image sides (default 224)")
    parser.add_argument("--batch", type=int, default=8, help="images in a batch (default 8)")
    parser.add_argument("--mode", choices=("inference", "training"), default="inference")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="measure after torch.compile")
    parser.add_argument("--fused", action="store_true", help="fuse ours for inference; timm's run as timm makes them")
    parser.add_argument(
        "--runtimes",
        nargs="+",
        choices=RUNTIMES,
        default=["pytorch"],
        help="time each model as PyTorch runs it, recorded as a graph, or on a CPU exported, in other runtimes "
        "(default pytorch)",
    )
    parser.add_argument("--together", action="store_true", help="time all models in one process, as GPUs always are")
    parser.add_argument("--rounds", type=int, default=7, help="times that each model is timed (default 7)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--memory", action="store_true", help="measure peak memory too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="write the measurement as .json or .csv, or a plot as .png")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure; results on stdout, what is being done on stderr."""
    import timm
    import torch

    from a2mamba.analysis.environment import environment
    from a2mamba.analysis.runners import Setting
    from a2mamba.analysis.throughput import compare, operators_disagree

    for name in ("batch", "rounds", "threads"):
        number = getattr(arguments, name)
        if number is not None and number < 1:
            raise ValueError(f"--{name} must be at least 1, got {number}")
    models = list(arguments.models)
    if arguments.peers:
        models += [name for name in PEERS if name not in models and timm.is_model(name)]
    for name in models:
        if not timm.is_model(name):
            hint = did_you_mean(name, timm.list_models(), otherwise="neither ours nor timm's")
            raise ValueError(f"unknown model {name!r}; {hint}")
    if min(arguments.sizes) < 1:
        raise ValueError(f"--sizes must be at least 1, got {min(arguments.sizes)}")
    if arguments.fused and arguments.mode == "training":
        raise ValueError("--fused is for inference; leave out --mode training")
    if arguments.out is not None and arguments.out.suffix not in (".json", ".csv", ".png"):
        raise ValueError(f"--out must end in .json, .csv or .png, got {arguments.out}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    wrong = operators_disagree(device)
    if wrong is not None:
        raise ValueError(f"no speed is reported: {wrong}")
    rows: list[Row] = []
    for size in arguments.sizes:
        setting = Setting(
            size,
            arguments.batch,
            arguments.mode,
            arguments.dtype,
            device,
            compile=arguments.compile,
            fused=arguments.fused,
        )
        rows += compare(
            models,
            setting,
            runtimes=arguments.runtimes,
            rounds=arguments.rounds,
            memory=arguments.memory,
            together=arguments.together,
            progress=say,
        )
    settings = environment(device)
    result = {"environment": settings, "rows": [asdict(row) for row in rows]}
    if arguments.out is not None:
        _write(arguments.out, result, rows)
    if arguments.json:
        print_json(result)
        return 0
    print(", ".join(f"{name} {value}" for name, value in settings.items() if value is not None))
    for size in arguments.sizes:
        same = [row for row in rows if row.size == size]
        print_table(
            ("model", "images/s", f"x {same[0].model}", "ms a batch", "quartiles", "peak MiB", "top-1, %"),
            [
                (
                    _described(row),
                    f"{row.images_per_second:.1f}",
                    f"{row.images_per_second / same[0].images_per_second:.2f}",
                    f"{row.milliseconds:.1f}",
                    "{:.1f} - {:.1f}".format(*row.milliseconds_quartiles),
                    "" if row.peak_memory_mb is None else f"{row.peak_memory_mb:.0f}",
                    "" if row.published_top1 is None else f"{row.published_top1:.1f}",
                )
                for row in same
            ],
            title=f"{arguments.mode} at {size}, batch {arguments.batch}, {arguments.dtype}",
        )
    return 0


def _described(row: Row) -> str:
    """The model's name, with what was done to it."""
    runtime = "" if row.runtime == "pytorch" else f" in {RUNTIMES[row.runtime]}"
    return f"{row.model}{runtime}" + (" (fused)" if row.fused else "")


def _write(path: Path, result: dict, rows: list[Row]) -> None:
    from a2mamba.files import replace_text

    if path.suffix == ".json":
        replace_text(path, json.dumps(result, indent=2))
    elif path.suffix == ".csv":
        text = io.StringIO()
        table = [asdict(row) for row in rows]
        writer = csv.DictWriter(text, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
        replace_text(path, text.getvalue())
    else:
        from a2mamba.analysis.plots import accuracy_against_speed

        accuracy_against_speed(rows, path)
