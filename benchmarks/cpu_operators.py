"""Operators on CPUs: the time of the Numba backend beside PyTorch's, on what a network really passes to them.

    python benchmarks/cpu_operators.py                                      # forward and backward, nano and tiny at 224
    python benchmarks/cpu_operators.py --threads 2 --sizes 16 --batch 32 --models a2mamba_nano
    python benchmarks/cpu_operators.py --forward --scan                     # forward alone, both operators
    python benchmarks/cpu_operators.py --steps                              # whole training steps
    python benchmarks/cpu_operators.py --pointwise --threads 2              # operators that inference alone has

A model runs once on random images, and every call of an operator with new sizes is kept. Each is then timed with both
backends in turn: processor time on one thread, elapsed time on several; medians of the rounds. Of training steps (no
optimizer) the gradient of attention alone is switched; forwards are Numba's. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import a2mamba
from a2mamba.analysis.environment import environment
from a2mamba.analysis.throughput import operators_disagree
from a2mamba.backbone.a2mamba import VARIANTS
from a2mamba.ops import feed_forward, gated_norm, gelu_depthwise, read_out, readout
from a2mamba.ops.neighborhood import numba_impl, torch_impl

OPERATORS = ("neighborhood_attention", "selective_scan_state")


class Recorder(TorchDispatchMode):
    """Keeps the arguments of the first call of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[str, tuple[Any, ...]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for operator in OPERATORS:
            if str(func).startswith(f"a2mamba.{operator}"):
                self.calls.setdefault(label(operator, args), (operator, args))
        return func(*args, **(kwargs or {}))


def label(operator: str, arguments: tuple[Any, ...]) -> str:
    if operator == "selective_scan_state":
        return f"scan of {arguments[0].shape[2]} x {arguments[0].shape[1]}"
    q, _, _, _, kernel_size, dilation, _ = arguments
    _, heads, height, width, d = q.shape
    return f"{height}x{width}, {heads} {'head' if heads == 1 else 'heads'} of {d}, K={kernel_size[0]}, r={dilation[0]}"


def seconds(call: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    call()
    return clock() - begin


def timed(operator: str, arguments: tuple[Any, ...], forward_only: bool, rounds: int) -> list[float]:
    """Return the median milliseconds of PyTorch's operator and of Numba's."""
    arguments = tuple(x.detach().requires_grad_(not forward_only) if isinstance(x, Tensor) else x for x in arguments)
    leaves = [x for x in arguments if isinstance(x, Tensor)]
    functions = [getattr(torch.ops.a2mamba, operator + suffix) for suffix in ("", "_numba")]
    weights = torch.randn_like(functions[0](*arguments))

    def run(function: Callable[..., Tensor], times: int = 1) -> None:
        for _ in range(times):
            out = function(*arguments)
            if not forward_only:
                torch.autograd.grad(out, leaves, weights)

    calls = [partial(run, function) for function in functions]
    for call in calls:
        call()
    # Short calls are repeated, for a clock's sake.
    repeats = max(1, int(0.005 / max(1e-5, seconds(calls[1], time.perf_counter))))
    return [found / repeats for found in alternate([partial(call, repeats) for call in calls], rounds)]


def steps(name: str, size: int, batch: int, rounds: int) -> list[float]:
    """Return the median milliseconds of a step with PyTorch's gradient of attention and with Numba's."""
    model = a2mamba.create_model(name, img_size=size).train()
    images = torch.randn(batch, 3, size, size)

    def step(gradient: Callable[..., Any]) -> None:
        with mock.patch.object(numba_impl, "backward", gradient):
            model.zero_grad()
            model(images).square().sum().backward()

    return alternate([partial(step, gradient) for gradient in (torch_impl.backward, numba_impl.backward)], rounds)


def pointwise(name: str, size: int, batch: int, rounds: int) -> Iterator[tuple[str, list[float]]]:
    """Yield the median milliseconds of what stands behind the attention and in the feed-forward network, per stage."""
    variant = VARIANTS[name]
    stages = zip(variant.channels, variant.heads, variant.mlp_ratios, strict=True)
    for i, (channels, heads, ratio) in enumerate(stages):
        side, hidden = size // (4 * 2**i), int(ratio * channels)
        case = readout.Case(batch, heads, channels // heads, side, side)
        wide = feed_forward.Case(batch, hidden, side, side).inputs()
        calls: list[tuple[str, str, Callable[..., Tensor]]] = [
            (f"gelu_depthwise {side}x{side}x{hidden}", "torch", partial(gelu_depthwise, *wide)),
            (f"gated_norm {side}x{side}x{channels}", "reference", partial(gated_norm, *case.gated_norm_inputs())),
        ]
        if i < 3:  # the last stage has no scan
            calls.append((f"read_out {side}x{side}x{channels}", "torch", partial(read_out, *case.read_out_inputs())))
        for what, plain, call in calls:
            with torch.no_grad():
                yield what, alternate([partial(call, backend=backend) for backend in (plain, "numba")], rounds)


def alternate(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median milliseconds of calls that take turns."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for call in calls:
        call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, found in zip(calls, times, strict=True):
            found.append(seconds(call, clock))
    return [1e3 * statistics.median(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["a2mamba_nano", "a2mamba_tiny"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[224])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--forward", action="store_true", help="leave out the backward")
    parser.add_argument("--steps", action="store_true", help="training steps instead of operators")
    parser.add_argument("--scan", action="store_true", help="the selective scan too")
    parser.add_argument("--pointwise", action="store_true", help="the operators of inference instead")
    arguments = parser.parse_args()
    wrong = operators_disagree("cpu")
    if wrong is not None:
        sys.exit(f"no speed is reported: {wrong}")
    torch.set_num_threads(arguments.threads)
    print(", ".join(f"{name} {value}" for name, value in environment("cpu").items() if value is not None))
    print("\n| network, input | call | torch, ms | numba, ms | quotient |\n|---|---|---|---|---|")
    for name in arguments.models:
        for size in arguments.sizes:
            torch.manual_seed(0)
            setting = f"{name.removeprefix('a2mamba_')}, {size}, batch {arguments.batch}"
            if arguments.steps:
                show(setting, "step", steps(name, size, arguments.batch, arguments.rounds))
                continue
            if arguments.pointwise:
                for what, times in pointwise(name, size, arguments.batch, arguments.rounds):
                    show(setting, what, times)
                continue
            model = a2mamba.create_model(name, img_size=size).eval()
            with Recorder() as recorder, torch.no_grad():
                model(torch.randn(arguments.batch, 3, size, size))
            for what, (operator, tensors) in recorder.calls.items():
                if operator == OPERATORS[0] or arguments.scan:
                    show(setting, what, timed(operator, tensors, arguments.forward, arguments.rounds))


def show(setting: str, what: str, times: list[float]) -> None:
    plain, compiled = times
    print(f"| {setting} | {what} | {plain:.2f} | {compiled:.2f} | {compiled / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
