"""A small network on made-up images, with all that makes exact resuming hard: dropout, batch norm, augmentation."""

from __future__ import annotations

import random
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from a2mamba.engine import (
    Ema,
    FaultPolicy,
    Hook,
    Loader,
    OptimizerConfig,
    Progress,
    Schedule,
    ScheduleConfig,
    Trainer,
    build_optimizer,
    resolve_precision,
)

SAMPLES = 26
BATCH = 4  # 7 batches an epoch, the last one of 2


class Batch(NamedTuple):
    images: Tensor  # (B, 1, 6, 6)
    labels: Tensor  # (B,)
    names: list[str]


class Images(Dataset[tuple[Tensor, int, str]]):
    """Two classes that differ in their mean; `augment` draws from all three global generators."""

    def __init__(self, *, augment: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = [index % 2 for index in range(SAMPLES)]
        self.images = torch.randn(SAMPLES, 1, 6, 6, generator=generator) + torch.tensor(self.labels).view(-1, 1, 1, 1)
        self.augment = augment

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        image = self.images[index]
        if self.augment:
            # the global numpy generator, as augmentation libraries use it
            image = image * random.uniform(0.9, 1.1) + float(np.random.normal()) * 0.01
            image = image + 0.05 * torch.randn(image.shape)
        return image, self.labels[index], f"image-{index}.png"


class ShuffleSampler(Sampler[int]):
    """Resumable: the order is a function of the epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.skipped = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch, self.skipped = epoch, 0

    def skip(self, samples: int) -> None:
        self.skipped = samples

    def __len__(self) -> int:
        return SAMPLES - self.skipped

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(100 + self.epoch)).tolist()
        return iter(order[self.skipped :])


def collate(samples: Sequence[tuple[Tensor, int, str]]) -> Batch:
    images, labels, names = zip(*samples, strict=True)
    return Batch(torch.stack(images), torch.tensor(labels), list(names))


def make_loader(*, sampler: Sampler[int] | None, augment: bool = True, batch_size: int = BATCH) -> DataLoader[Any]:
    """Without a sampler: torch's own shuffling, which cannot begin inside an epoch."""
    return DataLoader(Images(augment=augment), batch_size, shuffle=sampler is None, sampler=sampler, collate_fn=collate)


class Net(nn.Sequential):
    def __init__(self, *, plain: bool = False) -> None:
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 2)]
        super().__init__(
            *(layer for layer in layers if not plain or not isinstance(layer, nn.BatchNorm2d | nn.Dropout))
        )


class ToyTask:
    """Cross-entropy, and a second term when `ema` is given; the loss of `bad_steps` is infinite."""

    def __init__(self, model: nn.Module, *, ema: Ema | None = None, bad_steps: Container[int] = ()) -> None:
        self.model = model
        self.ema = ema
        self.bad_steps = bad_steps
        self.seen: list[Progress] = []

    def losses(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        self.seen.append(progress)
        logits = self.model(batch.images)
        losses = {"cross_entropy": nn.functional.cross_entropy(logits, batch.labels)}
        if progress.step in self.bad_steps:
            losses["cross_entropy"] = losses["cross_entropy"] * float("inf")
        if self.ema is not None:
            with torch.no_grad():
                target = self.ema.module(batch.images).softmax(1)
            losses["mesa"] = nn.functional.cross_entropy(logits, target)
        return losses

    def batch_size(self, batch: Batch) -> int:
        return len(batch.labels)

    def describe(self, batch: Batch) -> list[str]:
        return batch.names


def make_trainer(
    *,
    epochs: int = 3,
    hooks: Sequence[Hook] = (),
    accumulate: int = 1,
    sampler: bool = True,
    per_step: bool = True,
    bad_steps: Container[int] = (),
    faults: FaultPolicy | None = None,
    seed: int = 5,
    precision: Any = "float32",
    plain: bool = False,
    batch_size: int = BATCH,
    with_ema: bool = True,
    loader: Loader | None = None,
    model: nn.Module | None = None,
    sync_batch_norm: bool = True,
) -> Trainer:
    """A run as a recipe would build it: EMA given to the task (MESA) and to the loop."""
    model = Net(plain=plain) if model is None else model
    ema = Ema(model, decay=0.9) if with_ema else None
    if loader is None:
        loader = make_loader(sampler=ShuffleSampler() if sampler else None, augment=not plain, batch_size=batch_size)
    optimizer = build_optimizer(model, OptimizerConfig(lr=1e-2))
    config = ScheduleConfig(epochs=epochs, warmup_epochs=1, min_lr=1e-4, per_step=per_step)
    steps = -(-len(loader) // accumulate)
    return Trainer(
        ToyTask(model, ema=ema, bad_steps=bad_steps),
        loader=loader,
        optimizer=optimizer,
        schedule=Schedule(optimizer, config, steps_per_epoch=steps),
        epochs=config.total_epochs,
        device="cpu",
        precision=resolve_precision(precision, "cpu"),
        clip_grad_norm=1.0,
        seed=seed,
        accumulate=accumulate,
        ema=ema,
        hooks=hooks,
        run='{"recipe": "toy"}',
        sync_batch_norm=sync_batch_norm,
        faults=faults,
    )


class StopAt(Hook):
    def __init__(self, step: int, *, interrupt: bool = False) -> None:
        self.step = step
        self.interrupt = interrupt

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            trainer.request_stop(f"step {self.step}", interrupt=self.interrupt)


def assert_same(first: Any, second: Any, where: str = "state") -> None:
    """Equal bit for bit, whatever the nesting."""
    if isinstance(first, Tensor):
        assert isinstance(second, Tensor), where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (left, right) in enumerate(zip(first, second, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    else:
        assert first == second, where


def comparable(trainer: Trainer) -> dict[str, Any]:
    """The state without what a clock decided."""
    state = trainer.state_dict()
    progress = dict(state["progress"])
    progress.pop("history")
    state["progress"] = progress
    clock = ("seconds", "images_per_second")
    state["history"] = [{key: value for key, value in row.items() if key not in clock} for row in trainer.history]
    return state


def flip_byte(path: Path, marker: bytes) -> None:
    """Changes one bit right after `marker`."""
    content = bytearray(path.read_bytes())
    content[content.index(marker) + len(marker)] ^= 1
    path.write_bytes(bytes(content))
