"""The run that `reliability.py` kills, divides and poisons: a2mamba_test on handwritten digits, a few seconds long.

Everything in it is the project's own: the model, the loader, the trainer and its hooks. It is put together here rather
than by a recipe, so that its parts can be reached: files written slowly, activations poisoned, losses of every step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import a2mamba
from a2mamba.data import BatchLoader, EpochSampler, SeededDataset, decode_image
from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    CsvLogger,
    Ema,
    EvaluationHook,
    FaultPolicy,
    Hook,
    Interrupted,
    OptimizerConfig,
    QuarantineHook,
    Schedule,
    ScheduleConfig,
    SignalHook,
    Trainer,
    TrainingError,
    build_optimizer,
    merge_metrics,
    process_group,
    rank,
    resolve_precision,
    world_size,
)
from a2mamba.engine import checkpoint as checkpoint_module
from a2mamba.evaluation import TopK

CLASSES = 10
_CLOCK = ("seconds", "images_per_second")


class Digits(NamedTuple):
    """images (B, 3, 32, 32), targets (B,), B file names."""

    images: Tensor
    targets: Tensor
    paths: list[str]


class DigitFiles(Dataset[tuple[Tensor, int, str]]):
    """root/split/<class>/<image>, every file decoded when asked for; `shift` moves it at random by up to 2 pixels."""

    def __init__(self, folder: Path, *, limit: int | None, shift: bool) -> None:
        files = sorted(folder.glob("*/*"))
        order = np.random.default_rng(0).permutation(len(files))[:limit]
        self.files = [files[index] for index in sorted(order.tolist())]
        self.classes = sorted({file.parent.name for file in files})
        self.shift = shift

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        file = self.files[index]
        pixels = np.asarray(decode_image(file).resize((32, 32)), dtype=np.float32)
        image = torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
        if self.shift:
            image = image.roll((random.randint(-2, 2), int(torch.randint(-2, 3, ()))), (1, 2))
        return image, self.classes.index(file.parent.name), str(file)


def collate(samples: Sequence[tuple[Tensor, int, str]]) -> Digits:
    images, targets, paths = zip(*samples, strict=True)
    return Digits(torch.stack(images), torch.tensor(targets), list(paths))


class DigitTask:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def losses(self, batch: Digits, progress: object) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(self.model(batch.images), batch.targets, label_smoothing=0.1)}

    def batch_size(self, batch: Digits) -> int:
        return len(batch.targets)

    def describe(self, batch: Digits) -> list[str]:
        return batch.paths


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run. `batch` is the total over all processes."""

    data: str
    folder: str
    epochs: int = 3
    batch: int = 16
    images: int | None = 96
    lr: float = 2e-3
    drop_path: float = 0.1
    ema: float | None = 0.9
    seed: int = 3
    every_steps: int | None = 3
    stop_after: int | None = None
    sync_batch_norm: bool = True
    slow_write: float = 0.0
    """seconds that the bytes of a checkpoint take to be written, spread over them"""
    poison: tuple[int, ...] = ()
    """steps at which an activation becomes NaN, until the run has gone back once"""
    largest_share: float = 0.0
    """of undecodable images that is tolerated"""
    file_limit: int | None = None
    """bytes above which the system refuses to let a file grow, from the second epoch on"""
    pause: float = 0.0
    """seconds of rest after every step"""


def make_trainer(plan: Plan, hooks: Sequence[Hook] = ()) -> Trainer:
    """The run as a recipe would assemble it; inside the process group where there is one."""
    root = Path(plan.data)
    folder = Path(plan.folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model = a2mamba.create_model("a2mamba_test", num_classes=CLASSES, img_size=32, drop_path_rate=plan.drop_path)
    dataset = DigitFiles(root / "train", limit=plan.images, shift=True)
    sampler = EpochSampler(len(dataset), shuffle=True, seed=plan.seed, rank=rank(), world_size=world_size())
    assert plan.batch % world_size() == 0
    loader = BatchLoader(
        SeededDataset(dataset, plan.seed),
        sampler,
        batch_size=plan.batch // world_size(),
        collate=collate,
        drop_last=True,
        workers=0,
    )
    val = DigitFiles(root / "val", limit=None if plan.images is None else plan.images // 2, shift=False)
    held_out = BatchLoader(
        SeededDataset(val, 0),
        EpochSampler(len(val), shuffle=False, seed=0, rank=rank(), world_size=world_size(), remainder="keep"),
        batch_size=60,
        collate=collate,
        drop_last=False,
        workers=0,
    )

    def measure(network: nn.Module) -> Iterator[tuple[str, float]]:
        metric = TopK((1,))
        for batch in held_out:
            metric.update(network(batch.images), batch.targets)
        merge_metrics([metric])
        return ((("eval_loss" if name == "loss" else name), value) for name, value in metric.results())

    optimizer = build_optimizer(model, OptimizerConfig(lr=plan.lr), no_decay=model.no_weight_decay())
    config = ScheduleConfig(epochs=plan.epochs, warmup_epochs=1, warmup_lr=1e-5, per_step=True)
    ema = None if plan.ema is None else Ema(model, decay=plan.ema)
    metric = "top1" if plan.ema is None else "ema_top1"
    manager = CheckpointManager(folder / "checkpoints", keep_last=3, best_metric=metric)
    run_hooks: list[Hook] = [EvaluationHook(measure), CsvLogger(folder / "metrics.csv"), *hooks]
    if plan.largest_share:
        run_hooks.append(
            QuarantineHook(
                loader.replace_undecodable(),
                samples=loader.samples,
                largest_share=plan.largest_share,
                path=folder / "quarantine.json",
            )
        )
    run_hooks += [SignalHook(), CheckpointHook(manager, every_steps=plan.every_steps)]
    trainer = Trainer(
        DigitTask(model),
        loader=loader,
        optimizer=optimizer,
        schedule=Schedule(optimizer, config, steps_per_epoch=len(loader)),
        epochs=config.total_epochs,
        device="cpu",
        precision=resolve_precision("float32", "cpu"),
        clip_grad_norm=5.0,
        seed=plan.seed,
        ema=ema,
        hooks=run_hooks,
        run=json.dumps(dataclasses.asdict(plan)),
        sync_batch_norm=plan.sync_batch_norm,
        faults=FaultPolicy(folder=folder / "faults"),
    )
    if plan.poison:
        poison(trainer, plan.poison)
    newest = manager.latest()
    if newest is not None:  # --resume auto
        trainer.load_state_dict(newest[1])
    return trainer


def poison(trainer: Trainer, steps: Sequence[int]) -> None:
    """Makes the output of a layer in the middle NaN at these steps, as long as the run has not gone back."""
    layer = a2mamba_layer(trainer.task.model)

    def inject(module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        return output * float("nan") if trainer.step in steps and not trainer.fault_counts.recoveries else None

    layer.register_forward_hook(inject)


def a2mamba_layer(model: nn.Module) -> nn.Module:
    return model.get_submodule("stages.2.blocks.0.mlp")


class Report(Hook):
    """Tells the parent about the run as it goes, and keeps the loss of every step."""

    def __init__(self, plan: Plan, tell: Callable[..., None]) -> None:
        self.plan = plan
        self.tell = tell
        self.first = 0
        self.losses: list[float] = []

    def before_fit(self, trainer: Trainer) -> None:
        self.first = trainer.step
        self.tell("begin", trainer.step)

    def after_step(self, trainer: Trainer) -> None:
        self.losses.append(trainer.last_step["loss"])
        self.tell("step", trainer.step)
        time.sleep(self.plan.pause)
        if trainer.step == self.plan.stop_after:
            trainer.request_stop(f"step {trainer.step}")

    def after_last_step(self, trainer: Trainer) -> None:
        if self.plan.file_limit is not None and trainer.epoch == 2 and sys.platform != "win32":
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (self.plan.file_limit, self.plan.file_limit))


def digest(trainer: Trainer) -> str:
    """SHA-256 of everything in the state that a clock did not decide."""
    state = trainer.state_dict()
    found = hashlib.sha256()

    def add(tree: Any) -> None:
        if isinstance(tree, Tensor):
            found.update(str((tree.dtype, tuple(tree.shape))).encode() + tree.detach().contiguous().numpy().tobytes())
        elif isinstance(tree, dict):
            for key in sorted(tree, key=str):
                found.update(str(key).encode())
                add(tree[key])
        elif isinstance(tree, list | tuple):
            for value in tree:
                add(value)
        else:
            found.update(repr(tree).encode())

    add({key: state[key] for key in ("model", "ema", "optimizer", "best", "faults")})
    add([{key: value for key, value in row.items() if key not in _CLOCK} for row in trainer.history])
    return found.hexdigest()


@contextlib.contextmanager
def slow_writes(seconds: float, tell: Callable[..., None]) -> Iterator[None]:
    """Makes writing a checkpoint take this long, and tells when it begins and when the file has its name."""
    original = checkpoint_module.torch.save
    replace = checkpoint_module.os.replace

    def save(state: Any, file: Any) -> None:
        tell("writing")
        whole = io.BytesIO()
        original(state, whole)
        content = whole.getvalue()
        for part in range(16):  # what a kill leaves behind is a true beginning of the file
            file.write(content[len(content) * part // 16 : len(content) * (part + 1) // 16])
            time.sleep(seconds / 16)

    def rename(source: Any, target: Any) -> None:
        replace(source, target)
        tell("written")

    class SlowTorch:
        def __getattr__(self, name: str) -> Any:
            return save if name == "save" else getattr(torch, name)

    class SlowOs:
        def __getattr__(self, name: str) -> Any:
            return rename if name == "replace" else getattr(os, name)

    checkpoint_module.torch, checkpoint_module.os = SlowTorch(), SlowOs()  # type: ignore[assignment]
    try:
        yield
    finally:
        checkpoint_module.torch, checkpoint_module.os = torch, os


def train(plan: Plan, tell: Callable[..., None] = lambda *message: None) -> dict[str, Any]:
    """Trains from the newest checkpoint, or from the beginning, and says how it ended."""
    report = Report(plan, tell)
    slow = slow_writes(plan.slow_write, tell) if plan.slow_write else contextlib.nullcontext()
    result: dict[str, Any] = {"status": 0, "error": None, "digest": None, "history": [], "faults": None}
    with process_group("cpu", timeout_minutes=1.0):
        try:
            trainer = make_trainer(plan, [report])
            with slow:
                trainer.fit()
            result |= {"digest": digest(trainer), "history": trainer.history}
            result["faults"] = trainer.fault_counts.state_dict()
        except Interrupted as error:
            result |= {"status": error.exit_status, "error": str(error)}
        except (TrainingError, OSError, ValueError) as error:
            result |= {"status": 1, "error": str(error)}
    return result | {"first": report.first, "losses": report.losses}


def _child(plan: Plan, environment: dict[str, str], pipe: Connection) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)

    def tell(*message: Any) -> None:
        pipe.send(message)

    result = train(plan, tell)
    tell("end", result)
    pipe.close()
    sys.exit(result["status"])


@dataclass
class Child:
    """A process of a run, and what it tells."""

    process: ForkServerProcess
    pipe: Connection

    def messages(self, timeout: float = 120.0) -> Iterator[tuple[Any, ...]]:
        """Until the process ends, or nothing was heard for `timeout` seconds (TimeoutError)."""
        while True:
            if not self.pipe.poll(timeout):
                raise TimeoutError(f"nothing from process {self.process.pid} for {timeout:g} s")
            try:
                yield self.pipe.recv()
            except (EOFError, ConnectionResetError):
                self.process.join(timeout)
                return

    def result(self, timeout: float = 120.0) -> dict[str, Any]:
        """What the run came to; an empty dict where the process died without a word."""
        found: dict[str, Any] = {}
        for message in self.messages(timeout):
            if message[0] == "end":
                found = message[1]
        return found


CONTEXT = multiprocessing.get_context("forkserver")
# The server imports once what takes seconds; its children begin at once, and none has threads of the parent. (Only
# what is installed: the server does not know this folder.)
CONTEXT.set_forkserver_preload(
    [
        *("torch._dynamo", "timm.optim", "timm.scheduler"),
        *("a2mamba", "a2mamba.engine", "a2mamba.data", "a2mamba.evaluation", "a2mamba.ops.neighborhood.torch_impl"),
    ]
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(plan: Plan, *, processes: int = 1) -> list[Child]:
    """Starts a run as torchrun would, in this many processes."""
    port = free_port()
    children = []
    for number in range(processes):
        environment = {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_child, args=(plan, environment, theirs))
        process.start()
        theirs.close()
        children.append(Child(process, ours))
    return children


def run(plan: Plan, *, processes: int = 1, timeout: float = 120.0) -> list[dict[str, Any]]:
    """Runs to the end; the result of every process."""
    return [child.result(timeout) for child in start(plan, processes=processes)]
