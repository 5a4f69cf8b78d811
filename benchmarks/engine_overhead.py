"""The engine's share of a training step: everything but forward, backward and optimizer.

    python benchmarks/engine_overhead.py                        a2mamba_nano on this machine's device
    python benchmarks/engine_overhead.py --batch 8 --json

The Trainer trains as a recipe would let it: EMA, clipping, CSV and checkpoint hooks, the watch for non-finite values,
the means and generators of every step. Each part is timed where the loop calls it, and on a GPU waited for, so that the
parts add up to the step:

    forward     the task's losses, under autocast
    backward    loss.backward()
    optimizer   optimizer.step()
    engine      the rest of the step: of this, `ema` and `gradient norm and clipping` are named

The time for which a step waits for its batch is the loader's and not counted; the batch is made beforehand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

import a2mamba
from a2mamba.engine import (
    CheckpointHook,
    CheckpointManager,
    CsvLogger,
    Ema,
    Hook,
    OptimizerConfig,
    ProgressHook,
    Schedule,
    ScheduleConfig,
    SignalHook,
    Trainer,
    build_optimizer,
    resolve_precision,
)
from a2mamba.engine import trainer as trainer_module

Clock = dict[str, float]


class Batch(NamedTuple):
    images: Tensor
    targets: Tensor


class Task:
    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def losses(self, batch: Batch, progress: object) -> dict[str, Tensor]:
        return {"cross_entropy": F.cross_entropy(self.model(batch.images), batch.targets, label_smoothing=0.1)}

    def batch_size(self, batch: Batch) -> int:
        return len(batch.targets)

    def describe(self, batch: Batch) -> list[str]:
        return [str(index) for index in range(len(batch.targets))]


class Steps(Hook):
    """Starts a clock for each step."""

    def __init__(self, clock: Clock, rows: list[Clock]) -> None:
        self.clock, self.rows = clock, rows

    def after_step(self, trainer: Trainer) -> None:
        self.rows.append({"step": trainer.last_step["seconds"], **self.clock})
        self.clock.clear()


def measure(model: str, *, batch: int, size: int, steps: int, warmup: int, device: str) -> dict[str, Any]:
    """Medians over the steps, in seconds, and the engine's share."""
    clock: Clock = {}
    rows: list[Clock] = []

    def wait() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            wait()
            began = time.perf_counter()
            result = function(*arguments, **options)
            wait()
            clock[name] = clock.get(name, 0.0) + time.perf_counter() - began
            return result

        return wrapped

    network = a2mamba.create_model(model, img_size=size, drop_path_rate=0.05)
    task = Task(network)
    optimizer = build_optimizer(network, OptimizerConfig(lr=1e-3), no_decay=network.no_weight_decay())
    config = ScheduleConfig(epochs=2, warmup_epochs=1, per_step=True)
    images = torch.randn(batch, 3, size, size)
    loader = [Batch(images, torch.randint(1000, (batch,)))] * (warmup + steps)
    ema = Ema(network, decay=0.9999)
    norm, clip = trainer_module.get_total_norm, trainer_module.clip_grads_with_norm_
    with tempfile.TemporaryDirectory() as folder:
        hooks = [
            CsvLogger(Path(folder) / "metrics.csv"),
            ProgressHook(quiet=True),
            SignalHook(),
            CheckpointHook(CheckpointManager(folder), every_minutes=30.0),
            Steps(clock, rows),
        ]
        trainer = Trainer(
            task,
            loader=loader,
            optimizer=optimizer,
            schedule=Schedule(optimizer, config, steps_per_epoch=len(loader)),
            epochs=1,
            device=device,
            precision=resolve_precision("auto", device),
            clip_grad_norm=5.0,
            seed=0,
            ema=ema,
            hooks=hooks,
            channels_last=True,
        )
        task.losses = timed("forward", task.losses)  # type: ignore[method-assign]
        optimizer.step = timed("optimizer", optimizer.step)  # type: ignore[method-assign]
        ema.update = timed("ema", ema.update)  # type: ignore[method-assign]
        original = Tensor.backward
        Tensor.backward = timed("backward", original)  # type: ignore[method-assign]
        trainer_module.get_total_norm = timed("gradient norm and clipping", norm)
        trainer_module.clip_grads_with_norm_ = timed("gradient norm and clipping", clip)
        try:
            trainer.fit()
        finally:
            Tensor.backward = original  # type: ignore[method-assign]
            trainer_module.get_total_norm, trainer_module.clip_grads_with_norm_ = norm, clip
    kept = rows[warmup:]
    work = ("forward", "backward", "optimizer")
    engine = [row["step"] - sum(row[name] for name in work) for row in kept]
    shares = [own / row["step"] for own, row in zip(engine, kept, strict=True)]
    names = ("step", *work, "ema", "gradient norm and clipping")
    return {
        "model": model,
        "batch": batch,
        "size": size,
        "device": torch.cuda.get_device_name() if torch.device(device).type == "cuda" else "cpu",
        "precision": trainer.precision.name,
        "steps": len(kept),
        "seconds": {name: statistics.median(row[name] for row in kept) for name in names}
        | {"engine": statistics.median(engine)},
        "engine_share": statistics.median(shares),
        "largest_engine_share": max(shares),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="a2mamba_nano")
    parser.add_argument("--batch", type=int, help="images of a step (default 256 on a GPU, 8 on a CPU)")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args()
    batch = arguments.batch or (256 if arguments.device.startswith("cuda") else 8)
    result = measure(
        arguments.model,
        batch=batch,
        size=arguments.size,
        steps=arguments.steps,
        warmup=arguments.warmup,
        device=arguments.device,
    )
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    print(f"{result['model']} at {result['size']}, batch {batch}, {result['precision']}, {result['device']}")
    for name, seconds in result["seconds"].items():
        print(f"  {name:28} {1000 * seconds:9.2f} ms  {100 * seconds / result['seconds']['step']:6.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
