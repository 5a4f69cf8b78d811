"""MASS against its own parts at a scale that two CPU cores can train: what each part is worth, whatever it shows.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py --out runs/evidence

All networks have the size of `a2mamba_test` (four heads; 16, 32, 32, 48 channels) and are trained alike; only the mixer
differs.

Classification, three seeds: which digit is the largest? An image of 96 x 96 has three of the embedded digits, of
heights around 52, 36 and 24 pixels, among strokes that are none, so that a digit must be read in spite of clutter, at
several scales, and compared with others far away. Training images are made of the training part of the digits, held-out
images of the held-out part. Chance is 10 %.

Segmentation, two seeds: SegMAN-V2's decoder, 32 channels wide, on the embedded scenes, from random weights.

The score is that of the averaged model after the last epoch. Writes evidence.json and evidence.md (mean, spread,
difference to MASS, time) into the folder, after every run; a folder that was left half way is continued.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from a2mamba.data import write_demo
from a2mamba.files import replace_text
from a2mamba.recipes import make_run, train
from a2mamba.recipes.overrides import apply_overrides
from a2mamba.tasks import ClassificationRun, SegmentationRun

VARIANTS = {
    "MASS": "ablation_mass_test",
    "no aggregation by the attention maps": "ablation_no_aggregation_test",
    "local branch only": "ablation_local_test",
    "dilation fixed at 3": "ablation_dilation_3_test",
    "no gate": "ablation_no_gate_test",
    "LASS": "ablation_lass_test",
    "adaptive attention, one plain scan": "ablation_ama_rows_test",
}
"""What is compared -> its backbone."""

SIDE = 96
HEIGHTS = ((46, 58), (32, 40), (20, 28))
"""Pixels, from and to, of the three digits of an image; the first decides the class."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the data and the runs")
    parser.add_argument("--tasks", nargs="+", choices=("classification", "segmentation"), default=["classification"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2])
    parser.add_argument("--images", type=int, default=2000, help="training images; a quarter as many are held out")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=1000, help="of segmentation")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo = arguments.out / "demo"
    if not demo.is_dir():
        write_demo(demo, segmentation_scenes=1000, train_scenes=1, val_scenes=50)
    images = arguments.out / f"largest-{arguments.images}"
    if not images.is_dir():
        write_images(demo / "imagenet", images, train=arguments.images, val=max(arguments.images // 4, 10))
    report = arguments.out / "evidence.json"
    rows: list[dict[str, Any]] = json.loads(report.read_text())["runs"] if report.is_file() else []
    done = {(row["task"], row["variant"], row["seed"], row["length"]) for row in rows}
    # Seeds outermost: a run that is stopped has compared all variants at least once.
    for task in arguments.tasks:
        length = arguments.epochs if task == "classification" else arguments.iterations
        for seed in arguments.seeds if task == "classification" else arguments.seeds[:2]:
            for variant in arguments.variants:
                if (task, variant, seed, length) in done:
                    continue
                if task == "classification":
                    run: ClassificationRun | SegmentationRun = classification(images, VARIANTS[variant], length)
                else:
                    run = segmentation(demo, VARIANTS[variant], length)
                output = arguments.out / f"{task}-{VARIANTS[variant]}-{length}-{seed}"
                rows.append(measured(replace(run, seed=seed), output) | {"variant": variant, "length": length})
                print(json.dumps(rows[-1]), flush=True)
                settings = {"images": arguments.images, "torch": torch.__version__}
                replace_text(report, json.dumps({"settings": settings, "runs": rows}, indent=1) + "\n")
                replace_text(arguments.out / "evidence.md", table(rows))
    return 0


def classification(images: Path, backbone: str, epochs: int) -> ClassificationRun:
    """The recipe of the embedded digits, on the harder images, with a longer warm-up."""
    words = [f"model.name={backbone}", f"data.root={images}", f"data.image_size={SIDE}", "data.batch_size=32"]
    words += ["data.workers=0", f"schedule.epochs={epochs}", f"schedule.warmup_epochs={min(2, epochs - 1)}"]
    run: ClassificationRun = apply_overrides(make_run("digits"), words)
    return run


def segmentation(demo: Path, backbone: str, iterations: int) -> SegmentationRun:
    """The recipe of the embedded scenes, on another backbone."""
    words = [f"model.backbone={backbone}", "model.width=32", f"data.root={demo / 'ADEChallengeData2016'}"]
    words += [f"schedule.iterations={iterations}", f"schedule.interval={iterations}", "evaluate_every=1"]
    run: SegmentationRun = apply_overrides(make_run("scenes"), words)
    return replace(run, test=replace(run.test, scales=(1.0,)))  # five scales take as long as the training


def measured(run: ClassificationRun | SegmentationRun, output: Path) -> dict[str, Any]:
    """Train; return the score of the averaged model after the last epoch, and the time."""
    began, cpu = time.perf_counter(), time.process_time()
    recipe = "digits" if run.task == "classification" else "scenes"
    trainer = train(run, output, recipe=recipe, resume="auto", device="cpu", quiet=True)
    return {
        "task": run.task,
        "seed": run.seed,
        "score": trainer.history[-1][f"ema_{run.metric}"],
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the report as Markdown: mean and range of the seeds, and the difference to MASS."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        metric = "top-1" if task == "classification" else "mIoU"
        lines += [
            f"| {task} | {metric} %, mean | from, to | to MASS | seeds | CPU minutes a run |",
            "|---|---|---|---|---|---|",
        ]
        found = {
            variant: [row for row in rows if row["task"] == task and row["variant"] == variant] for variant in VARIANTS
        }
        means = {variant: statistics.mean(r["score"] for r in runs) for variant, runs in found.items() if runs}
        for variant, mean in means.items():
            scores = [row["score"] for row in found[variant]]
            difference = f"{mean - means['MASS']:+.2f}" if "MASS" in means else ""
            minutes = statistics.mean(row["cpu_seconds"] for row in found[variant]) / 60
            lines.append(
                f"| {variant} | {mean:.2f} | {min(scores):.2f}, {max(scores):.2f} | {difference} | {len(scores)} | "
                f"{minutes:.1f} |"
            )
        lines.append("")
    return "\n".join(lines)


def write_images(digits: Path, root: Path, *, train: int, val: int) -> None:
    """Write images of three digits in ImageNet's layout; the class is the largest digit's."""
    for split, count, seed in (("train", train, 0), ("val", val, 1)):
        generator = np.random.default_rng((2507, seed))
        folders = sorted((digits / split).iterdir())
        inks = [[np.asarray(Image.open(file).convert("L")) for file in sorted(folder.iterdir())] for folder in folders]
        for number in range(count):
            label = number % len(folders)
            target = root / split / folders[label].name / f"{number:05}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            image_of(label, inks, generator).save(target)


def image_of(label: int, inks: list[list[np.ndarray]], generator: np.random.Generator) -> Image.Image:
    """Return an image whose largest digit has this label; the others have any."""
    ground = Image.new("L", (SIDE, SIDE), int(generator.integers(0, 90)))
    draw = ImageDraw.Draw(ground)
    for _ in range(int(generator.integers(6, 12))):
        ends = generator.uniform(0, SIDE, 4).tolist()
        draw.line(ends, fill=int(generator.integers(60, 256)), width=int(generator.integers(1, 4)))
    pixels = np.asarray(ground, dtype=np.float64)
    free = np.ones((SIDE, SIDE), dtype=bool)
    for place, (low, high) in enumerate(HEIGHTS):
        choice = label if place == 0 else int(generator.integers(len(inks)))
        ink = Image.fromarray(inks[choice][int(generator.integers(len(inks[choice])))])
        side = int(generator.integers(low, high + 1))
        opacity = np.asarray(ink.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64) / 255
        for _ in range(50):  # where it covers no other digit, if there is such a place
            top, left = generator.integers(0, SIDE - side + 1, 2)
            window = (slice(top, top + side), slice(left, left + side))
            if free[window].all():
                break
        pixels[window] += opacity * (int(generator.integers(160, 256)) - pixels[window])
        free[window] = False
    pixels += generator.normal(0, 8, pixels.shape)
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    raise SystemExit(main())
