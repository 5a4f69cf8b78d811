"""MASS against its own parts at a scale that two CPU cores can train: what each part is worth, whatever it shows.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py --out runs/evidence --tasks classification segmentation
    python benchmarks/evidence.py --out runs/evidence --tasks classification segmentation --device cuda --processes 14

All networks have the size of `a2mamba_test` (2, 2, 4 and 4 heads; 16, 32, 32 and 48 channels) and are trained alike, in
float32; only the mixer differs.

Classification, three seeds: which digit is the largest? An image of 96 x 96 has three of the embedded digits, of
heights around 52, 36 and 24 pixels, among strokes that are none, so that a digit must be read in spite of clutter, at
several scales, and compared with others far away. Training images are made of the training part of the digits, held-out
images of the held-out part. Chance is 10 %.

Segmentation, two seeds: SegMAN-V2's decoder, 32 channels wide, on the embedded scenes. Its backbone begins with the
weights that classification gave the same variant and seed, as the paper's begin with ImageNet's.

The score is that of the averaged model after the last epoch. Writes evidence.json and evidence.md (mean, spread,
difference to MASS, time) into the folder, after every training; a folder that was left half way is continued.

Each training is a process with one thread. Networks of this size leave a GPU waiting for the host: many trainings side
by side fill it. Then loading is what takes the processor's time, and with `--share-batches` the batches of a seed are
made once for all variants, by all processes, and kept as files (27 GB in all): the same batches as otherwise.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from largest_digit import SIDE, write_images
from many_trainings import PARTS, UseSharedBatches, side_by_side, write_batches

from a2mamba.analysis.environment import environment
from a2mamba.data import write_demo
from a2mamba.engine import Hook
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


@dataclass(frozen=True)
class Training:
    """One training: task, variant, seed, length in epochs or iterations; its data, and how many images these are.

    ``begins_with``: a checkpoint of its backbone, or None for random weights.
    """

    task: str
    variant: str
    seed: int
    length: int
    data: Path
    images: int
    begins_with: Path | None = None

    @property
    def name(self) -> str:
        """A folder's name."""
        return f"{self.task}-{VARIANTS[self.variant]}-{self.images}-{self.length}-{self.seed}"

    @property
    def key(self) -> dict[str, Any]:
        """What tells its row from others'."""
        return {name: getattr(self, name) for name in ("task", "variant", "seed", "length", "images")}

    def run(self) -> ClassificationRun | SegmentationRun:
        """Return the run."""
        backbone = VARIANTS[self.variant]
        if self.task == "classification":
            return replace(classification(self.data, backbone, self.length), seed=self.seed)
        return replace(segmentation(self.data, backbone, self.length, self.begins_with), seed=self.seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and the runs")
    parser.add_argument("--data", type=Path, help="folder for the data; made where there are none; default: --out")
    parser.add_argument("--tasks", nargs="+", choices=("classification", "segmentation"), default=["classification"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2], help="segmentation has the first two")
    parser.add_argument("--images", type=int, default=8000, help="training images; a quarter as many are held out")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=1000, help="of segmentation")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side")
    parser.add_argument("--share-batches", action="store_true", help="make the batches of a seed once for all variants")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended too
    images, demo = write_data(arguments.data or arguments.out, arguments.images)
    trainings = []
    # Seeds outermost: a benchmark that is stopped has compared all variants at least once.
    for seed in arguments.seeds:
        trainings += [
            Training("classification", variant, seed, arguments.epochs, images, arguments.images)
            for variant in arguments.variants
        ]
    for first in trainings[: 2 * len(arguments.variants)] if "segmentation" in arguments.tasks else []:
        backbone = arguments.out / first.name / "checkpoints" / "last.pt"
        trainings.append(
            replace(first, task="segmentation", length=arguments.iterations, data=demo, begins_with=backbone)
        )
    trainings = [each for each in trainings if each.task in arguments.tasks]
    begins = [each.begins_with for each in trainings if each.begins_with and "classification" not in arguments.tasks]
    absent = [checkpoint for checkpoint in begins if not checkpoint.is_file()]
    if absent:
        print(f"segmentation begins with {absent[0]}: add classification to --tasks", file=sys.stderr)
        return 2
    if arguments.share_batches and not make_all_batches(trainings, arguments.out, processes=arguments.processes):
        print("the batches could not be made", file=sys.stderr)
        return 1
    work = partial(measured, out=arguments.out, device=arguments.device, share_batches=arguments.share_batches)
    # One task after the other: segmentation begins with what classification has ended with.
    for task in ("classification", "segmentation"):
        some = [each for each in trainings if each.task == task]
        if train_all(some, arguments.out, work, processes=arguments.processes):
            return 1
    return 0


def make_all_batches(trainings: Sequence[Training], out: Path, *, processes: int) -> bool:
    """Make the batches of all tasks and seeds that are not there yet; return whether it worked."""
    # One variant of a task and seed stands for all.
    first = {(each.task, each.seed): each for each in reversed(trainings)}
    calls = [
        # The weights that a training begins with may not be there yet, and batches do not depend on them.
        partial(write_batches, replace(each, begins_with=None).run(), batch_folder(each, out), part)
        for each in first.values()
        for part in range(PARTS)
    ]
    return all(made is not None for _, made in side_by_side(calls, processes))


def train_all(
    trainings: Sequence[Training], out: Path, work: Callable[[Training], dict[str, Any]], *, processes: int
) -> int:
    """Make the trainings that the report does not have yet; return 1 where one failed."""
    report = out / "evidence.json"
    rows: list[dict[str, Any]] = json.loads(report.read_text())["runs"] if report.is_file() else []
    missing = [each for each in trainings if not any(each.key.items() <= row.items() for row in rows)]
    began = time.perf_counter()
    failed = []
    for number, row in side_by_side([partial(work, each) for each in missing], processes):
        if row is None:
            failed.append(missing[number].name)
            print(f"{time.perf_counter() - began:.0f} s: FAILED {failed[-1]}", file=sys.stderr, flush=True)
            continue
        rows.append(row | {"processes": processes})
        print(f"{time.perf_counter() - began:.0f} s:", json.dumps(rows[-1]), flush=True)
        replace_text(report, json.dumps({"runs": rows}, indent=1) + "\n")
        replace_text(out / "evidence.md", table(rows))
    if failed:
        print(f"{len(failed)} of {len(missing)} trainings failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


def write_data(root: Path, images: int) -> tuple[Path, Path]:
    """Write what is not there yet; return the folders of the classification images and of the demo's scenes."""
    demo, largest = root / "demo", root / f"largest-{images}"
    if not demo.is_dir():
        write_demo(demo, segmentation_scenes=1000, train_scenes=1, val_scenes=50)
    if not largest.is_dir():
        write_images(demo / "imagenet", largest, train=images, val=max(images // 4, 10))
    return largest, demo


def classification(images: Path, backbone: str, epochs: int) -> ClassificationRun:
    """The recipe of the embedded digits, on the harder images, with a longer warm-up."""
    words = [f"model.name={backbone}", f"data.root={images}", f"data.image_size={SIDE}", "data.batch_size=32"]
    words += [
        "data.workers=0",
        f"schedule.epochs={epochs}",
        f"schedule.warmup_epochs={min(max(1, epochs // 10), epochs - 1)}",
    ]
    words += [f"evaluate_every={epochs}", "precision=float32", "micro_batch=32"]
    run: ClassificationRun = apply_overrides(make_run("digits"), words)
    return run


def segmentation(demo: Path, backbone: str, iterations: int, begins_with: Path | None) -> SegmentationRun:
    """The recipe of the embedded scenes, on another backbone, which begins with a checkpoint's weights or with none."""
    words = [f"model.backbone={backbone}", "model.width=32", f"data.root={demo / 'ADEChallengeData2016'}"]
    words += [f"schedule.iterations={iterations}", f"schedule.interval={iterations}", "evaluate_every=1"]
    words += ["precision=float32", "micro_batch=32"]
    words += [] if begins_with is None else [f"model.backbone_checkpoint={begins_with}"]
    run: SegmentationRun = apply_overrides(make_run("scenes"), words)
    return replace(run, test=replace(run.test, scales=(1.0,)))  # five scales take as long as the training


def measured(training: Training, *, out: Path, device: str, share_batches: bool) -> dict[str, Any]:
    """Train; return the score of the averaged model after the last epoch, the time, and where it was trained."""
    began, cpu = time.perf_counter(), time.process_time()
    run, resumed = training.run(), any((out / training.name / "checkpoints").glob("*.pt"))
    recipe = "digits" if run.task == "classification" else "scenes"
    hooks: list[Hook] = [UseSharedBatches(batch_folder(training, out), training.task)] if share_batches else []
    trainer = train(run, out / training.name, recipe=recipe, resume="auto", device=device, quiet=True, hooks=hooks)
    where = environment(device)
    return training.key | {
        "score": trainer.history[-1][f"ema_{run.metric}"],
        "steps": trainer.step,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "resumed": resumed,
        "device": where["device"],
        "torch": where["torch"],
    }


def batch_folder(training: Training, out: Path) -> Path:
    """Return where the batches of a training are: for all variants the same."""
    return out / f"batches-{training.task}-{training.images}-{training.length}-{training.seed}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the report as Markdown: mean and range of the seeds, the difference to MASS, and where it was trained.

    Behind a difference stands its standard error, of the standard deviation of a seed pooled over the rows of a task.
    """
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        metric = "top-1" if task == "classification" else "mIoU"
        lines += [
            f"| {task} | {metric} %, mean | from, to | to MASS | seeds | processor seconds a training |",
            "|---|---|---|---|---|---|",
        ]
        found = {
            variant: [row["score"] for row in rows if row["task"] == task and row["variant"] == variant]
            for variant in VARIANTS
        }
        deviation = pooled_deviation(list(found.values()))
        mass = found["MASS"]
        for variant, scores in found.items():
            if not scores:
                continue
            difference = ""
            if mass and scores is not mass:
                difference = f"{statistics.mean(scores) - statistics.mean(mass):+.2f}"
            if difference and deviation is not None:
                difference += f" ± {deviation * (1 / len(scores) + 1 / len(mass)) ** 0.5:.1f}"
            whole = [
                row["cpu_seconds"]
                for row in rows
                if row["task"] == task and row["variant"] == variant and not row["resumed"]
            ]
            seconds = f"{statistics.mean(whole):.0f}" if whole else ""
            lines.append(
                f"| {variant} | {statistics.mean(scores):.2f} | {min(scores):.2f}, {max(scores):.2f} | {difference} | "
                f"{len(scores)} | {seconds} |"
            )
        lines.append("")
        if deviation is not None:
            lines += [f"Standard deviation of a seed, pooled over the rows: {deviation:.2f}.", ""]
    places = [f"{row['device']}, torch {row['torch']}, {row['processes']} at a time" for row in rows]
    for place in dict.fromkeys(places):
        lines += [f"{places.count(place)} trainings: {place}.", ""]
    return "\n".join(lines)


def pooled_deviation(groups: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within groups of scores, pooled; None where no group has two."""
    several = [scores for scores in groups if len(scores) > 1]
    if not several:
        return None
    freedom = sum(len(scores) - 1 for scores in several)
    return (sum(statistics.variance(scores) * (len(scores) - 1) for scores in several) / freedom) ** 0.5


if __name__ == "__main__":
    raise SystemExit(main())
