"""MASS against its own parts at a scale that two CPU cores can train: what each part is worth, whatever it shows.

    OMP_NUM_THREADS=1 python benchmarks/evidence.py --out runs/evidence --tasks classification segmentation
    python benchmarks/evidence.py --out runs/evidence --tasks classification segmentation --device cuda --processes 14

All networks have the size of `a2mamba_test` (four heads; 16, 32, 32, 48 channels) and are trained alike, in float32;
only the mixer differs.

Classification, three seeds: which digit is the largest? An image of 96 x 96 has three of the embedded digits, of
heights around 52, 36 and 24 pixels, among strokes that are none, so that a digit must be read in spite of clutter, at
several scales, and compared with others far away. Training images are made of the training part of the digits, held-out
images of the held-out part. Chance is 10 %.

Segmentation, two seeds: SegMAN-V2's decoder, 32 channels wide, on the embedded scenes, from random weights.

The score is that of the averaged model after the last epoch. Writes evidence.json and evidence.md (mean, spread,
difference to MASS, time) into the folder, after every training; a folder that was left half way is continued.

Each training is a process with one thread. Networks of this size leave a GPU waiting for the host: many trainings side
by side fill it. Then loading is what takes the processor's time, and with `--share-batches` the batches of a seed are
made once for all variants, by all processes, and kept as files (4.3 GB in all): the same batches as otherwise.
`--graphs` replays the network's forward and backward pass as CUDA graphs, and compares their gradients with eager ones.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, ImageDraw

from a2mamba.analysis.throughput import environment
from a2mamba.data import ClassificationBatch, SegmentationBatch, write_demo
from a2mamba.engine import Hook, Interrupted, Progress, Trainer, move_to
from a2mamba.files import replace_text
from a2mamba.recipes import make_run, train
from a2mamba.recipes.overrides import apply_overrides
from a2mamba.tasks import ClassificationRun, SegmentationRun, task_of

T = TypeVar("T")

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


PARTS = 8
"""Into how many parts the making of a seed's batches is cut."""


@dataclass(frozen=True)
class Training:
    """One training: task, variant, seed, length in epochs or iterations; its data, and how many images these are."""

    task: str
    variant: str
    seed: int
    length: int
    data: Path
    images: int

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
        make = classification if self.task == "classification" else segmentation
        return replace(make(self.data, VARIANTS[self.variant], self.length), seed=self.seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the report and the runs")
    parser.add_argument("--data", type=Path, help="folder for the data; made where there are none; default: --out")
    parser.add_argument("--tasks", nargs="+", choices=("classification", "segmentation"), default=["classification"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 1, 2], help="segmentation has the first two")
    parser.add_argument("--images", type=int, default=2000, help="training images; a quarter as many are held out")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--iterations", type=int, default=1000, help="of segmentation")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side")
    parser.add_argument("--share-batches", action="store_true", help="make the batches of a seed once for all variants")
    parser.add_argument("--batches-only", action="store_true", help="make these, and stop")
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs of forward and backward; on a GPU")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended too
    images, demo = write_data(arguments.data or arguments.out, arguments.images)
    trainings = []
    # Seeds outermost: a benchmark that is stopped has compared all variants at least once.
    for task in arguments.tasks:
        length, data = (arguments.epochs, images) if task == "classification" else (arguments.iterations, demo)
        for seed in arguments.seeds if task == "classification" else arguments.seeds[:2]:
            trainings += [
                Training(task, variant, seed, length, data, arguments.images) for variant in arguments.variants
            ]
    share_batches = arguments.share_batches or arguments.batches_only
    if share_batches and not make_all_batches(trainings, arguments.out, processes=arguments.processes):
        print("the batches could not be made", file=sys.stderr)
        return 1
    if arguments.batches_only:
        return 0
    train = partial(
        measured, out=arguments.out, device=arguments.device, share_batches=share_batches, graphs=arguments.graphs
    )
    return train_all(trainings, arguments.out, train, processes=arguments.processes)


def make_all_batches(trainings: Sequence[Training], out: Path, *, processes: int) -> bool:
    """Make the batches of all tasks and seeds that are not there yet; return whether it worked."""
    # One variant of a task and seed stands for all.
    first = {(each.task, each.seed): each for each in reversed(trainings)}
    calls = [partial(make_batches, each, out, part) for each in first.values() for part in range(PARTS)]
    return all(made is not None for _, made in side_by_side(calls, processes))


def train_all(
    trainings: Sequence[Training], out: Path, train: Callable[[Training], dict[str, Any]], *, processes: int
) -> int:
    """Make the trainings that the report does not have yet; return 1 where one failed."""
    report = out / "evidence.json"
    rows: list[dict[str, Any]] = json.loads(report.read_text())["runs"] if report.is_file() else []
    missing = [each for each in trainings if not any(each.key.items() <= row.items() for row in rows)]
    began = time.perf_counter()
    failed = []
    for number, row in side_by_side([partial(train, each) for each in missing], processes):
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
    words += ["data.workers=0", f"schedule.epochs={epochs}", f"schedule.warmup_epochs={min(2, epochs - 1)}"]
    words += [f"evaluate_every={epochs}", "precision=float32", "micro_batch=32"]
    run: ClassificationRun = apply_overrides(make_run("digits"), words)
    return run


def segmentation(demo: Path, backbone: str, iterations: int) -> SegmentationRun:
    """The recipe of the embedded scenes, on another backbone."""
    words = [f"model.backbone={backbone}", "model.width=32", f"data.root={demo / 'ADEChallengeData2016'}"]
    words += [f"schedule.iterations={iterations}", f"schedule.interval={iterations}", "evaluate_every=1"]
    words += ["precision=float32", "micro_batch=32"]
    run: SegmentationRun = apply_overrides(make_run("scenes"), words)
    return replace(run, test=replace(run.test, scales=(1.0,)))  # five scales take as long as the training


def measured(training: Training, *, out: Path, device: str, share_batches: bool, graphs: bool) -> dict[str, Any]:
    """Train; return the score of the averaged model after the last epoch, the time, and where it was trained."""
    began, cpu = time.perf_counter(), time.process_time()
    run, resumed = training.run(), any((out / training.name / "checkpoints").glob("*.pt"))
    recipe = "digits" if run.task == "classification" else "scenes"
    hooks: list[Hook] = [UseSharedBatches(batch_folder(training, out), training.task)] if share_batches else []
    graphed = UseGraphs()
    hooks += [graphed] * graphs
    trainer = train(run, out / training.name, recipe=recipe, resume="auto", device=device, quiet=True, hooks=hooks)
    where = environment(device)
    return training.key | {
        "score": trainer.history[-1][f"ema_{run.metric}"],
        "steps": trainer.step,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        "resumed": resumed,
        "graph_error": graphed.error,
        "device": where["device"],
        "torch": where["torch"],
    }


def side_by_side(calls: Sequence[Callable[[], T]], processes: int) -> Iterator[tuple[int, T | None]]:
    """Call each in a process of its own, so many at a time; yield (its number, its result) as they end.

    The result is None where the process failed: it has said why on stderr. All end when the iteration does.
    """
    # The server of forks imports once what all need, and has no thread and no CUDA context that a fork would break.
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(["a2mamba.recipes", "a2mamba.analysis.throughput"])
    waiting = list(enumerate(calls))[::-1]
    running: dict[Any, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                number, call = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_send, args=(call, sender))
                process.start()
                sender.close()  # the process has it; when that ends, the receiver hears of it
                running[receiver] = number, process
            ready: list[Any] = multiprocessing.connection.wait(list(running))
            for receiver in ready:
                number, process = running.pop(receiver)
                try:
                    result = receiver.recv()
                except EOFError:
                    result = None
                process.join()
                yield number, result
    finally:
        for _, process in running.values():
            process.terminate()  # a training saves where it is
        for _, process in running.values():
            process.join()


def _send(call: Callable[[], Any], sender: Any) -> None:
    torch.set_num_threads(1)
    with suppress(Interrupted):  # it was asked to end, and has saved
        sender.send(call())


def batch_folder(training: Training, out: Path) -> Path:
    """Return where the batches of a training are: for all variants the same."""
    return out / f"batches-{training.task}-{training.images}-{training.length}-{training.seed}"


def make_batches(training: Training, out: Path, part: int) -> int:
    """Write one of `PARTS` parts of the batches of all epochs, as the run's own loader makes them; return how many."""
    run, folder = training.run(), batch_folder(training, out)
    folder.mkdir(parents=True, exist_ok=True)
    loader: Any = task_of(run).prepare(run, device="cpu").loader
    steps, total = len(loader), len(loader) * run.schedule.total_epochs
    place, end = total * part // PARTS, total * (part + 1) // PARTS
    made = 0
    while place < end:
        epoch, first = divmod(place, steps)
        count = min(steps - first, end - place)
        files = [folder / f"{epoch}-{number}.pt" for number in range(first, first + count)]
        place += count
        if all(file.is_file() for file in files):
            continue
        loader.set_epoch(epoch)
        loader.skip(first * run.data.batch_size)
        for file, batch in zip(files, islice(loader, count), strict=True):
            torch.save(tuple(batch), file.with_suffix(".part"))
            os.replace(file.with_suffix(".part"), file)
            made += 1
    return made


class SharedBatches:
    """The batches that `make_batches` wrote, in the place of a run's loader: an `engine.ResumableSampler` too."""

    def __init__(self, folder: Path, task: str, *, steps: int) -> None:
        self.folder = folder
        self.batch: Any = ClassificationBatch if task == "classification" else SegmentationBatch
        self.steps = steps
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch, self.first = epoch, 0

    def skip(self, samples: int) -> None:
        """Leave out the first samples of the epoch."""
        self.first = samples // 32

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.first, self.steps):
            yield self.batch(*torch.load(self.folder / f"{self.epoch}-{number}.pt", weights_only=True))


class UseSharedBatches(Hook):
    """Puts `SharedBatches` in the place of a run's loader."""

    def __init__(self, folder: Path, task: str) -> None:
        self.folder, self.task = folder, task

    def before_fit(self, trainer: Trainer) -> None:
        """Replace it."""
        trainer.loader = SharedBatches(self.folder, self.task, steps=trainer.steps_per_epoch)


class UseGraphs(Hook):
    """Replays the network's forward and backward pass in training as CUDA graphs.

    error: the largest error of a gradient that was found, relative to its norm; None before.

    Raises ValueError where graphs make other gradients than the network without them.
    """

    def __init__(self) -> None:
        self.error: float | None = None

    def before_fit(self, trainer: Trainer) -> None:
        """Record, and compare."""
        model, eager = trainer.task.model, trainer.task.model.forward
        batch = move_to(next(iter(trainer.loader)), trainer.device, trainer.memory_format)
        buffers = [buffer.clone() for buffer in model.buffers()]
        seen: list[tuple[torch.Tensor, dict[str, Any]]] = []

        def watched(images: torch.Tensor, **options: Any) -> Any:
            seen.append((images, options))
            return eager(images, **options)

        model.forward = watched
        model.train()
        expected = self._gradients(trainer, batch)
        (images, options), *_ = seen
        recorded = torch.cuda.make_graphed_callables(
            _Plain(model, eager, options), (images.clone(),), allow_unused_input=True
        )
        model.forward = lambda images, **options: (recorded if model.training else eager)(
            images, **({} if model.training else options)
        )
        found = self._gradients(trainer, batch)
        with torch.no_grad():
            for buffer, value in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(value)
            scale = torch.cat([each.flatten() for each in expected]).norm() / 100
            errors = [
                (one - other).norm() / torch.maximum(other.norm(), scale)
                for one, other in zip(found, expected, strict=True)
            ]
            self.error = float(torch.stack(errors).max())
        if not self.error < 0.02:  # NaN is an error too
            raise ValueError(f"gradients of CUDA graphs differ from eager ones by {self.error:.1e} of their norm")

    def close(self, trainer: Trainer) -> None:
        """Give the network its own way back."""
        trainer.task.model.__dict__.pop("forward", None)

    @staticmethod
    def _gradients(trainer: Trainer, batch: Any) -> list[torch.Tensor]:
        """Return the loss and the gradients of a batch, with the same random numbers every time."""
        torch.manual_seed(0)
        losses = trainer.task.losses(batch, Progress(epoch=0, step=0, steps_per_epoch=1, epochs=1))
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        parameters = [each for each in trainer.task.model.parameters() if each.grad is not None]
        gradients = [loss.detach().clone(), *(each.grad.clone() for each in parameters if each.grad is not None)]
        trainer.task.model.zero_grad(set_to_none=True)
        return gradients


class _Plain(torch.nn.Module):
    """A network whose forward pass takes images alone, as recording wants it."""

    def __init__(self, model: torch.nn.Module, forward: Callable[..., Any], options: dict[str, Any]) -> None:
        super().__init__()
        self.model, self.pass_on, self.options = model, forward, options

    def forward(self, images: torch.Tensor) -> Any:
        return self.pass_on(images, **self.options)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the report as Markdown: mean and range of the seeds, the difference to MASS, and where it was trained."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        metric = "top-1" if task == "classification" else "mIoU"
        lines += [
            f"| {task} | {metric} %, mean | from, to | to MASS | seeds | seconds a training |",
            "|---|---|---|---|---|---|",
        ]
        found = {
            variant: [row for row in rows if row["task"] == task and row["variant"] == variant] for variant in VARIANTS
        }
        means = {variant: statistics.mean(r["score"] for r in runs) for variant, runs in found.items() if runs}
        for variant, mean in means.items():
            scores = [row["score"] for row in found[variant]]
            difference = f"{mean - means['MASS']:+.2f}" if "MASS" in means else ""
            whole = [row["seconds"] for row in found[variant] if not row["resumed"]]
            seconds = f"{statistics.mean(whole):.0f}" if whole else ""
            lines.append(
                f"| {variant} | {mean:.2f} | {min(scores):.2f}, {max(scores):.2f} | {difference} | {len(scores)} | "
                f"{seconds} |"
            )
        lines.append("")
    places = [
        f"{row['device']}, torch {row['torch']}, {row['processes']} at a time"
        + (", as CUDA graphs" if row["graph_error"] is not None else "")
        for row in rows
    ]
    for place in dict.fromkeys(places):
        lines += [f"{places.count(place)} trainings: {place}.", ""]
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
