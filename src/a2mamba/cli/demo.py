"""`a2mamba demo DIR`: embedded data, training, evaluation, prediction and a report, each step a command of its own."""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from a2mamba.cli.device import add_device, choose_device
from a2mamba.cli.output import print_json, say
from a2mamba.engine.errors import TrainingError

TARGET = 97.0
"""Top-1 in percent that the full form has to reach."""

MARKER = ".a2mamba-demo"
"""File that says that the folder's contents were written by a demo, and may be removed by the next."""

DATA = "data"
WRITTEN = (
    "run",
    "predictions",
    "confusion.json",
    "scenes",
    "scenes-images",
    "objects",
    "objects-images",
    "report.json",
    "report.html",
)
"""What a demo writes beside the data. ``a2mamba data demo`` replaces its own data, and nothing else, by itself."""

CHECKPOINT = "run/checkpoints/best.pt"
HELD_OUT = f"{DATA}/imagenet/val"
PACKAGES = ("a2mamba", "torch", "torchvision", "timm", "numpy", "scikit-learn")


@dataclass(frozen=True)
class System:
    """A demonstration on scenes, which begins with the classifier's backbone.

    recipe: its name, and that of its folder.
    data: folder of its data set.
    targets: metric -> percent that the full form has to reach.
    images: files that the evaluation writes, and what they show.
    distributed: whether two processes train it where there are two cores, as its numbers were measured.
    """

    recipe: str
    data: str
    targets: dict[str, float]
    images: dict[str, str]
    distributed: bool = False


SYSTEMS = {
    "segmentation": System(
        "scenes",
        "ADEChallengeData2016",
        {"miou": 65.0},
        {"segmentation.png": "Held-out scenes: image, truth, prediction, and the prediction laid over the image"},
        distributed=True,
    ),
    "detection": System(
        "objects",
        "coco",
        {"box_ap50": 50.0, "mask_ap50": 45.0},
        {
            "typical.png": "Held-out scenes from the middle of the ranking: truth on the left, prediction on the right",
            "worst.png": "The worst scenes: truth on the left, prediction on the right",
        },
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = (
        "Trains on scikit-learn's handwritten digits, in minutes on two CPU cores; nothing is downloaded.\n"
        f"Exit status 1 if top-1 stays below {TARGET:g} %, or a system on scenes below its target.\n"
        "Examples: a2mamba demo demo\n          a2mamba demo demo --tasks segmentation detection"
    )
    parser.add_argument(
        "--tasks",
        nargs="*",
        choices=tuple(SYSTEMS),
        default=["segmentation"],
        metavar="TASK",
        help="what to train after the classifier, on its backbone: segmentation, detection\n"
        "(default: segmentation; --tasks alone: nothing)",
    )
    parser.add_argument("dir", type=Path, help="folder for data, run, predictions, report.json and report.html")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier demo wrote there")
    parser.add_argument("--small", action="store_true", help="the debug form: a tiny model, seconds, no target")
    parser.add_argument("--json", action="store_true", help="print report.json on stdout too")
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Take the whole way; the exit status of a step that fails is the command's."""
    from a2mamba.cli.report import write_report

    folder: Path = arguments.dir
    device = choose_device(arguments.device)
    on_device = [] if arguments.device == "auto" else ["--device", arguments.device]
    _prepare(folder, overwrite=arguments.overwrite)
    systems = {task: SYSTEMS[task] for task in SYSTEMS if task in arguments.tasks}
    step = _Steps(folder, count=4 + 2 * len(systems))
    began = time.monotonic()
    try:
        with step.stopping_on_signals():
            overwrite = ["--overwrite"] if arguments.overwrite else []
            form = ["--small"] if arguments.small else []
            data = json.loads(step("data", ["data", "demo", DATA, *form, *overwrite, "--json"]))
            train = ["train", "digits", f"data.root={DATA}/imagenet", *form, "--out", "run", "--json", *on_device]
            trained = json.loads(step("train", train))
            evaluate = ["eval", "digits", "--checkpoint", CHECKPOINT, "--confusion", "confusion.json", "--json"]
            evaluation = json.loads(step("evaluate", [*evaluate, *on_device]))
            settings = _read_json(folder / "run" / "run.json")
            images = sorted(path.relative_to(folder).as_posix() for path in (folder / HELD_OUT).glob("*/*.png"))
            predict = ["predict", settings["config"]["model"]["name"], "--checkpoint", CHECKPOINT, *on_device]
            predict += ["--out", "predictions"]
            step("predict", [*predict, *images], shown=f"{shlex.join(predict)} {HELD_OUT}/*/*.png")
            # Processes of one thread, for the reason of `_environment`.
            processes = 1 if arguments.small or device != "cpu" else min(2, _cpus())
            scenes = {
                task: _scenes(step, task, system, form, on_device, processes if system.distributed else 1)
                for task, system in systems.items()
            }
    except _StepError as error:
        return error.status
    passed = evaluation["top1"] >= TARGET and all(scene["passed"] for scene in scenes.values())
    report: dict[str, Any] = {
        "top1": evaluation["top1"],
        "top5": evaluation["top5"],
        "target_top1": TARGET,
        "passed": None if arguments.small else passed,
        "small": arguments.small,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 2),
        "steps": step.done,
        "evaluation": evaluation,
        "confusion": _read_json(folder / "confusion.json"),
        "predictions": _compare(_read_json(folder / "predictions" / "predictions.json")["predictions"]),
        "training": {"best": trained["best"], "history": _history(folder / "run" / "metrics.csv")},
        "scenes": scenes,
        "run": settings,
        "model": _count(settings),
        "data": data,
        "machine": _machine(device, threads=step.environment["OMP_NUM_THREADS"]),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}},
    }
    write_report(folder, report)
    if arguments.json:
        print_json(report)
    else:
        found = [f"top-1 {evaluation['top1']:.2f} % of {evaluation['images']} held-out digits"]
        found += [f"{name} {scene['metrics'][name]:.2f} %" for scene in scenes.values() for name in scene["targets"]]
        print(f"{', '.join(found)}, {folder / 'report.html'}")
    if not passed and not arguments.small:
        reached = {"top-1": (evaluation["top1"], TARGET)}
        for scene in scenes.values():
            reached |= {name: (scene["metrics"][name], target) for name, target in scene["targets"].items()}
        below = [f"{name} is {value:.2f} %, target {low:g} %" for name, (value, low) in reached.items() if value < low]
        raise TrainingError(f"{'; '.join(below)}; see {folder / 'report.html'}")
    return 0


def _scenes(
    step: _Steps, task: str, system: System, form: list[str], on_device: list[str], processes: int
) -> dict[str, Any]:
    """Train and evaluate one system on the embedded scenes; return what the report tells of it."""
    best = f"{system.recipe}/checkpoints/best.pt"
    start = [f"data.root={DATA}/{system.data}", f"model.backbone_checkpoint={CHECKPOINT}"]
    train = ["train", system.recipe, *start, *form, "--out", system.recipe, "--json", *on_device]
    trained = json.loads(step(f"train {task}", train, processes=processes))
    images = f"{system.recipe}-images"
    evaluate = ["eval", system.recipe, "--checkpoint", best, "--save-images", images, "--per-class", "--json"]
    evaluation = json.loads(step(f"evaluate {task}", [*evaluate, *on_device]))
    metrics = {name: value for name, value in evaluation.items() if isinstance(value, float)}
    return {
        "recipe": system.recipe,
        "targets": system.targets,
        "passed": all(metrics[name] >= target for name, target in system.targets.items()),
        "metrics": metrics,
        "images": evaluation["images"],
        "classes": evaluation["classes"],
        "drawings": {f"{images}/{name}": text for name, text in system.images.items()},
        "best": trained["best"],
        "history": _history(step.folder / system.recipe / "metrics.csv"),
        "run": _read_json(step.folder / system.recipe / "run.json"),
    }


class _StepError(Exception):
    """A step failed, and has told the user why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class _Steps:
    """Runs commands of ours in processes of their own, inside the demo's folder, and notes what each took.

    Paths are relative to the folder, so that neither the report nor a checkpoint tells where on this machine it was.
    """

    def __init__(self, folder: Path, *, count: int) -> None:
        self.folder = folder
        self.count = count
        self.environment = _environment(os.environ)
        self.done: list[dict[str, Any]] = []
        self._child: subprocess.Popen[str] | None = None
        self._stopped = False

    def __call__(self, name: str, command: Sequence[str], *, shown: str | None = None, processes: int = 1) -> str:
        """Run a command and return its stdout; stderr, with its progress, goes where ours goes.

        Args:
            name: of the step, in the report.
            command: words after `a2mamba`.
            shown: a short form for people, which a shell expands to ``command``.
            processes: that share the work, under torchrun.

        Raises:
            _StepError: the command failed.
            KeyboardInterrupt: a signal ended it.
        """
        words = shlex.join(command) if shown is None else shown
        module = ["-m", "a2mamba.cli.main"]
        if processes > 1:
            launch = ["--standalone", "--nproc-per-node", str(processes), *module]
            display = f"torchrun {shlex.join(launch)} {words}"
            module = ["-m", "torch.distributed.run", *launch]
        else:
            display = f"a2mamba {words}"
        say(f"[{len(self.done) + 1}/{self.count}] {display}")
        began = time.monotonic()
        with subprocess.Popen(
            [sys.executable, *module, *command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        ) as self._child:
            if self._stopped:  # the signal came while the process was being made
                self._child.terminate()
            output, _ = self._child.communicate()
        status = self._child.returncode
        if self._stopped:
            raise KeyboardInterrupt
        if status < 0:
            say(f"a2mamba demo: the step {name!r} was ended by {signal.Signals(-status).name}")
            raise _StepError(128 - status)
        if status:
            raise _StepError(status)
        self.done.append({"name": name, "command": display, "seconds": round(time.monotonic() - began, 2)})
        return output

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the step that runs, a second one at once; the step's call then raises.

        The signal does not raise by itself: an exception while a process is being made would leave that process behind.
        """

        def stop(number: int, frame: FrameType | None) -> None:
            if self._child is not None:
                self._child.kill() if self._stopped else self._child.terminate()
            self._stopped = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the steps: what the user has set wins.

    One thread: the operations on images of 32 x 32 are too short to be shared, and threads that wait for each other
    are slow where the cores have other work too. Measured on two cores, one of them busy: 0.28 s a training step with
    one thread, 4.1 s with two, 0.38 s with two that sleep while they wait (OMP_WAIT_POLICY=PASSIVE).
    """
    environment = dict(inherited)
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment["PYTHONIOENCODING"] = "utf-8"
    return environment


def _cpus() -> int:
    """Return the number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _prepare(folder: Path, *, overwrite: bool) -> None:
    """Make the folder; remove what an earlier demo wrote there, and nothing else."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose a folder for the demo")
    found = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    names = ", ".join([name for name in found if name != MARKER][:5])
    if found and not overwrite:
        raise ValueError(f"{folder} is not empty ({names}); choose another folder, or replace a demo with --overwrite")
    ours = [name for name in WRITTEN if name in found]
    if ours and MARKER not in found:
        raise ValueError(f"{folder} has {', '.join(ours)} that no demo wrote; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    for name in ours:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _history(path: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.csv; what was not measured in an epoch is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def _compare(predictions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the predictions with the true class, which is the name of the image's folder."""
    rows = []
    for prediction in predictions:
        true = Path(prediction["image"]).parent.name
        right = prediction["top"][0]["class"] == true
        rows.append({"image": prediction["image"], "true": true, "right": right, "top": prediction["top"]})
    return rows


def _count(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return size and cost of the model that a run trains."""
    from a2mamba.analysis import flops, parameters
    from a2mamba.backbone import create_model

    config = settings["config"]
    image = (config["data"]["in_chans"], config["data"]["image_size"], config["data"]["image_size"])
    model = create_model(
        config["model"]["name"],
        num_classes=len(settings["classes"]),
        in_chans=image[0],
        img_size=image[1],
        device="meta",
    )
    return {
        "name": config["model"]["name"],
        "parameters": parameters(model),
        "macs": flops(model, image),
        "image": list(image),
    }


def _machine(device: str, *, threads: str) -> dict[str, Any]:
    """Return what the times depend on; nothing that names the machine or its user."""
    import torch

    from a2mamba.analysis.environment import processor

    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "device": device,
        "accelerator": accelerator,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cpus": _cpus(),
        "threads": threads,
    }
