"""How far 16-bit outputs are from the float32 ones, with the weights of the reference runs. Prints a Markdown table.

    PYTHONPATH=tests python benchmarks/half_precision.py                                   # all variants at 224 and 512
    PYTHONPATH=tests python benchmarks/half_precision.py --models a2mamba_nano --sizes 1024

Errors are the largest difference relative to the largest float32 logit. "autocast" keeps float32 weights, "cast" rounds
the whole model; "weights alone" computes in float32 with convolution and linear weights rounded to the dtype: what no
implementation can avoid. "training" is autocast with the batch statistics of two images, against the same in float32.
"""

from __future__ import annotations

import argparse
import copy

import torch
from torch import Tensor, nn

from support import reference_images, reference_model, relative_error, released_layout

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def rounded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a float32 copy whose convolutions and linear maps have weights that ``dtype`` can hold."""
    other = copy.deepcopy(model)
    for module in other.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.weight.data = module.weight.data.to(dtype).float()
    return other


@torch.no_grad()
def errors(model: nn.Module, size: int, dtype: torch.dtype) -> list[float]:
    """Return the errors under autocast, cast, with rounded weights alone, and in training mode."""
    images = reference_images(1, size, size)

    def autocast(model: nn.Module, images: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return model(images)

    expected = model(images)
    found = [
        autocast(model, images),
        copy.deepcopy(model).to(dtype)(images.to(dtype)),
        rounded(model, dtype)(images),
    ]
    two = reference_images(2, size, size)
    training = copy.deepcopy(model).train()
    in_training = relative_error(autocast(training, two), training(two))
    return [*(relative_error(logits, expected) for logits in found), in_training]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=sorted(released_layout()), choices=sorted(released_layout()))
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 512])
    arguments = parser.parse_args()
    print("| model | size | dtype | autocast | cast | weights alone | training |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.models:
        model = reference_model(name)
        for size in arguments.sizes:
            for label, dtype in HALVES.items():
                cells = " | ".join(f"{100 * error:.2f} %" for error in errors(model, size, dtype))
                print(f"| {name} | {size} | {label} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
