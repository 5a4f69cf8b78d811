"""`a2mamba doctor`."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata
from typing import Any

from a2mamba.cli.output import print_json, print_table

PACKAGES = ("a2mamba", "torch", "torchvision", "timm", "triton", "safetensors", "huggingface_hub", "numpy", "pillow")
OPTIONAL = ("numba", "scikit-learn", "matplotlib", "tensorboard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Example: a2mamba doctor --json"
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print versions, devices, and for every operator and device which backend runs; exit 1 if a self-test fails."""
    versions = {name: _version(name) for name in (*PACKAGES, *OPTIONAL)}
    devices = _devices()
    operators = [row for device in devices for row in _operators(device["device"])]
    healthy = all(row["self_test"] == "passed" for row in operators if row["chosen"])
    if arguments.json:
        system = {"python": platform.python_version(), "platform": platform.platform()}
        print_json({**system, "versions": versions, "devices": devices, "operators": operators, "healthy": healthy})
        return 0 if healthy else 1
    print(f"Python {platform.python_version()} on {platform.platform()}")
    print_table(("package", "version"), list(versions.items()))
    print_table(("device", "what it is"), [(d["device"], d["name"]) for d in devices])
    rows = [
        (
            r["operator"],
            r["device"],
            r["backend"],
            "chosen" if r["chosen"] else r["reason"] or "can run",
            r["self_test"],
        )
        for r in operators
    ]
    print_table(("operator", "device", "backend", "state", "self-test"), rows)
    return 0 if healthy else 1


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[dict[str, str]]:
    import torch

    found = [{"device": "cpu", "name": f"{platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()}"}]
    for i in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(i).total_memory / 2**30
        found.append({"device": f"cuda:{i}", "name": f"{torch.cuda.get_device_name(i)}, {memory:.0f} GiB"})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Apple GPU"})
    return found


def _operators(device: str) -> list[dict[str, Any]]:
    """Return a row per operator and backend: can it run small float32 inputs here, and does it agree with reference."""
    import torch

    from a2mamba.ops import neighborhood, neighborhood_attention, selective_scan, selective_scan_state

    # Wide enough for every backend.
    attention_case, scan_case = neighborhood.CASES[4], selective_scan.CASES[2]
    q, k, v, bias = attention_case.inputs(torch.float32, device)
    u, delta, A, B, delta_bias = scan_case.inputs(torch.float32, device)

    def attend(backend: str) -> torch.Tensor:
        options = {"kernel_size": attention_case.kernel_size, "dilation": attention_case.dilation}
        return neighborhood_attention(q, k, v, bias, backend=backend, **options)  # type: ignore[arg-type]

    def scan(backend: str) -> torch.Tensor:
        return selective_scan_state(u, delta, A, B, delta_bias, backend=backend)

    rows = []
    for operator, choices, call in (
        ("neighborhood_attention", neighborhood.explain_backends(q, k, v, bias), attend),
        ("selective_scan_state", selective_scan.explain_backends(u), scan),
    ):
        expected = call("reference")
        first = next(choice.backend for choice in choices if choice.reason is None)
        for choice in choices:
            verdict = "not run"
            if choice.reason is None:
                error = float((call(choice.backend) - expected).abs().max() / expected.abs().max())
                verdict = "passed" if error < 1e-3 else f"FAILED: relative error {error:.1e}"
            rows.append(
                {
                    "operator": operator,
                    "device": device,
                    "backend": choice.backend,
                    "chosen": choice.backend == first,
                    "reason": choice.reason,
                    "self_test": verdict,
                }
            )
    return rows
