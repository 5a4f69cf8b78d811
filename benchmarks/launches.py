"""Count the launches of an eager forward as a GPU would make them. Needs no GPU, and runs none of our kernels.

    python benchmarks/launches.py                # a2mamba_tiny at 224 in bfloat16 autocast
    python benchmarks/launches.py a2mamba_nano --size 512

PyTorch's operations are counted where they are dispatched, on the CPU; ours where Triton would be called. On a GPU some
of PyTorch's make several launches (convolutions with bias, attention), which is not counted.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from contextlib import ExitStack
from importlib import import_module
from typing import Any
from unittest import mock

# Read when Triton is imported and when kernels are defined: they take tensors on the CPU then.
os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import a2mamba
from a2mamba.ops import self_test, triton_launch

OPERATORS = ("channel_norm", "depthwise", "feed_forward", "neighborhood", "readout", "rotary", "selective_scan")
LAYERS = ("channel_norm", "pointwise")
NO_LAUNCH = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "detach", "promote_types"}
NO_LAUNCH |= {"_unsafe_view", "lift_fresh", "as_strided_"}


class Dispatched(TorchDispatchMode):
    """Counts PyTorch's operations that are no views."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and run an operation."""
        name = func.name().removeprefix("aten::").split(".")[0]
        if not func.is_view and name not in NO_LAUNCH:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def count(name: str, size: int) -> tuple[Counter[str], Counter[str]]:
    """Return how often PyTorch's operations and our kernels are launched for one image."""
    model = a2mamba.create_model(name).eval()
    ours: Counter[str] = Counter()

    def launch(self: triton_launch.RepeatedLaunch, **tensors: torch.Tensor) -> None:
        ours[self.kernel.fn.__name__] += 1

    with ExitStack() as stack, torch.no_grad():
        enter = stack.enter_context
        for operator in OPERATORS:
            enter(
                mock.patch.object(
                    import_module(f"a2mamba.ops.{operator}.operator"), "triton_missing", return_value=None
                )
            )
        for layer in LAYERS:
            enter(mock.patch.object(import_module(f"a2mamba.layers.{layer}"), "on_gpu", return_value=True))
        enter(mock.patch("a2mamba.ops.dispatch.HAS_NUMBA", False))
        enter(mock.patch.object(self_test, "passed", return_value=None))
        enter(
            mock.patch.dict(self_test._verdicts, {(each, torch.device("cpu")): None for each in self_test.COMPARISONS})
        )
        enter(mock.patch.object(triton_launch.RepeatedLaunch, "__call__", launch))
        # Operators must not see that somebody counts.
        enter(mock.patch.object(torch._C, "_len_torch_dispatch_stack", return_value=0))
        dispatched = enter(Dispatched())
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.zeros(1, 3, size, size))
    return dispatched.counts, ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="a2mamba_tiny")
    parser.add_argument("--size", type=int, default=224, help="side of the image")
    arguments = parser.parse_args()
    found = dict(zip(("PyTorch", "Triton"), count(arguments.model, arguments.size), strict=True))
    for title, counts in found.items():
        print(f"{title}: {counts.total()}")
        for name, times in counts.most_common():
            print(f"    {times:5} {name}")
    print(f"all: {sum(counts.total() for counts in found.values())}")


if __name__ == "__main__":
    main()
