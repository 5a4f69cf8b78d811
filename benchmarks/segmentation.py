"""Time SegMAN-V2-nano against transformers' SegFormer-B0, and say what the decoder costs.

    python benchmarks/segmentation.py                            # 512 x 512, 150 classes
    python benchmarks/segmentation.py --size 128 --rounds 3      # a quick look
    python benchmarks/segmentation.py --json -

Both networks end with logits at the size of the image. Everything is timed in one run and in turns: a round times each
once, so that a machine that slows down slows all of them down. Figures are medians over the rounds, the first one left
out. Weights are random, and SegFormer-B0 is built from its configuration's default values: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from a2mamba import create_segmenter, fuse_for_inference
from a2mamba.analysis.environment import environment


def segformer_b0(num_classes: int) -> Callable[[Tensor], Tensor]:
    """Return SegFormer-B0 with its logits, of stride 4, resized to the image."""
    try:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation
    except ImportError as error:
        raise SystemExit("transformers is missing; pip install 'a2mamba[transformers]'") from error
    config = SegformerConfig(id2label={i: str(i) for i in range(num_classes)})
    model = SegformerForSemanticSegmentation(config).eval()

    def run(images: Tensor) -> Tensor:
        logits = model(pixel_values=images).logits
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)

    return run


def measure(size: int, rounds: int, name: str, num_classes: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the median seconds of one image, by part."""
    torch.manual_seed(0)
    model = create_segmenter(name, num_classes=num_classes).eval()
    fused = fuse_for_inference(model)
    segformer = segformer_b0(num_classes)
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        maps = model.features(images)
    parts: dict[str, Callable[[], Any]] = {
        "segformer_b0": lambda: segformer(images),
        name: lambda: model(images),
        f"{name}, fused": lambda: fused(images),
        "backbone": lambda: model.features(images),
        "decoder": lambda: model.decoder(maps),
        "decoder, fused": lambda: fused.decoder(maps),
    }
    seconds: dict[str, list[float]] = {part: [] for part in parts}
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for part, call in parts.items():
                start = clock()
                call()
                seconds[part].append(clock() - start)
    return {part: statistics.median(times[1:]) for part, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--model", default="segman_v2_nano", help="one of a2mamba.list_segmenters()")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--process-time", action="store_true", help="count processor time, on a machine that is shared")
    parser.add_argument("--json", metavar="FILE", help="where to write the figures; - for the standard output")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    clock = time.process_time if options.process_time else time.perf_counter
    medians = measure(options.size, options.rounds, options.model, options.classes, clock)
    speed = medians["segformer_b0"] / medians[options.model]
    share = medians["decoder"] / medians[options.model]
    out = sys.stderr if options.json == "-" else sys.stdout
    for part, value in medians.items():
        print(f"{part:28s} {1000 * value:9.1f} ms", file=out)
    print(
        f"{options.model} runs at {speed:.2f} of SegFormer-B0's speed; its decoder takes {100 * share:.0f} %", file=out
    )
    if options.json:
        report = {
            "size": options.size,
            "classes": options.classes,
            "rounds": options.rounds,
            "clock": "process" if options.process_time else "wall",
            "seconds": medians,
            "speed_against_segformer_b0": speed,
            "decoder_share": share,
            "environment": environment("cpu"),
        }
        text = json.dumps(report, indent=2)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text + "\n")


if __name__ == "__main__":
    main()
