"""`a2mamba doctor`."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any

from a2mamba.cli.output import print_json, print_table

if TYPE_CHECKING:
    from torch import Tensor

    from a2mamba.ops.dispatch import Choice

PACKAGES = ("a2mamba", "torch", "torchvision", "timm", "triton", "safetensors", "huggingface_hub", "numpy", "pillow")
OPTIONAL = ("numba", "faster-coco-eval", "scikit-learn", "matplotlib", "tensorboard")


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

    # Some backends have no gradient.
    with torch.no_grad():
        return [row for operator, choices, call in _calls(device) for row in _compare(operator, device, choices, call)]


def _calls(device: str) -> Iterator[tuple[str, list[Choice], Callable[..., Tensor]]]:
    """Yield every operator's name, what its backends say to small inputs, and a call that takes a backend."""
    import torch

    from a2mamba import ops
    from a2mamba.ops import depthwise, feed_forward, neighborhood, positional, readout, rotary, selective_scan
    from a2mamba.ops.channel_norm import CASES as NORM_CASES
    from a2mamba.ops.channel_norm import explain_backends as explain_norm

    # Wide enough for every backend.
    attention, scan = neighborhood.CASES[4], selective_scan.CASES[2]
    q, k, v, bias = attention.inputs(torch.float32, device)
    options: dict[str, Any] = {"kernel_size": attention.kernel_size, "dilation": attention.dilation}
    u, delta, A, B, delta_bias = scan.inputs(torch.float32, device)
    yield (
        "neighborhood_attention",
        neighborhood.explain_backends(q, k, v, bias),
        partial(ops.neighborhood_attention, q, k, v, bias, **options),
    )
    yield (
        "selective_scan_state",
        selective_scan.explain_backends(u),
        partial(ops.selective_scan_state, u, delta, A, B, delta_bias),
    )
    states = readout.CASES[1].read_out_inputs(torch.float32, device)
    yield "read_out", readout.explain_read_out(*states), partial(ops.read_out, *states)
    maps = readout.CASES[1].gated_norm_inputs(torch.float32, device)
    yield "gated_norm", readout.explain_gated_norm(*maps), partial(ops.gated_norm, *maps)
    wide = feed_forward.CASES[1].inputs(torch.float32, device)
    yield "gelu_depthwise", feed_forward.explain_backends(*wide), partial(ops.gelu_depthwise, *wide)
    yield "residual_depthwise", feed_forward.explain_residual(*wide), partial(feed_forward.residual_depthwise, *wide)
    block = positional.CASES[1].inputs(torch.float32, device)
    yield (
        "positional_norm",
        positional.explain_backends(*block),
        lambda **chosen: torch.stack(ops.positional_norm(*block, **chosen)),
    )
    narrow = depthwise.CASES[0].inputs(torch.float32, device)
    yield "depthwise_conv", depthwise.explain_backends(*narrow), partial(ops.depthwise_conv, *narrow)
    x, weight, x_bias, eps, dtype = NORM_CASES[0].inputs(torch.float32, device)
    yield (
        "channel_norm",
        explain_norm(x, weight, x_bias, eps, dtype),
        partial(ops.channel_norm, x, weight, x_bias, eps),
    )
    heads = rotary.CASES[0].inputs(torch.float32, device)
    yield "rotate", rotary.explain_backends(*heads), partial(ops.rotate, *heads)


def _compare(
    operator: str, device: str, choices: list[Choice], call: Callable[..., Tensor]
) -> Iterator[dict[str, Any]]:
    expected = call(backend=choices[-1].backend)
    first = next(choice.backend for choice in choices if choice.reason is None)
    for choice in choices:
        verdict = "not run"
        if choice.reason is None:
            error = float((call(backend=choice.backend) - expected).abs().max() / expected.abs().max())
            verdict = "passed" if error < 1e-3 else f"FAILED: relative error {error:.1e}"
        yield {
            "operator": operator,
            "device": device,
            "backend": choice.backend,
            "chosen": choice.backend == first,
            "reason": choice.reason,
            "self_test": verdict,
        }
