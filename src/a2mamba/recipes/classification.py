"""Classification runs: their configuration, and the assembly of model, data and engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from a2mamba.backbone import Pyramid, check_name, classifier_weight, create_model, load_checkpoint
from a2mamba.data import ClassificationBatch, ClassificationData, eval_loader, train_loader
from a2mamba.data.classification.loaders import check_batch, open_split, split_classes
from a2mamba.data.classification.mixing import BatchTransform
from a2mamba.engine import (
    ScheduleConfig,
    build_optimizer,
    merge_metrics,
    move_to,
    rank,
    world_size,
)
from a2mamba.evaluation import ConfusionMatrix, TopK
from a2mamba.recipes.batches import BatchPlan
from a2mamba.recipes.dry_run import DataSize, plan_for_device
from a2mamba.recipes.training import NetworkConfig, Parts, Prepared, TrainingRun, drawn_from
from a2mamba.tasks import ClassificationTask

_STAGES = 4
_IMAGENET_CLASSES, _IMAGENET_IMAGES = 1000, 1_281_167
_CPU_SAMPLES = 8  # of 224 x 224, in a measured step


@dataclass(frozen=True, kw_only=True)
class ModelConfig(NetworkConfig):
    """Which backbone, and what of it the run decides."""

    pretrained: bool = False
    """start from the released weights, downloaded once; `checkpoint` comes before it"""
    drop_rate: float = 0.0
    """dropout before the classifier"""
    checkpointed_blocks: tuple[int, ...] | None = None
    """first blocks of each stage whose activations are computed twice, to save memory; none: of no stage"""

    def __post_init__(self) -> None:
        check_name(self.name)
        blocks = self.checkpointed_blocks
        if blocks is not None and (len(blocks) != _STAGES or min(blocks) < 0):
            raise ValueError(
                f"model.checkpointed_blocks={blocks}: expected {_STAGES} numbers of 0 or more, one a stage"
            )

    def without_weights(self) -> ModelConfig:
        """The same backbone from random weights, for those of a file to be put in."""
        return replace(self, checkpoint=None, pretrained=False)


@dataclass(frozen=True, kw_only=True)
class ClassificationRun(TrainingRun):
    """Everything that decides a classification run."""

    task = "classification"
    metric = "top1"

    model: ModelConfig
    data: ClassificationData
    schedule: ScheduleConfig
    label_smoothing: float = 0.1
    """share of the target that is spread over all classes"""
    mesa_ratio: float = 0.0
    """weight of the cross-entropy against the averaged model's prediction (MESA); 0: none"""
    mesa_start: int = 75
    """epochs that are completed before MESA begins"""
    original_weight_decay: bool = False
    """decay what the authors' optimizer decayed (A_log among it), not what they marked"""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing}: expected 0 to less than 1")
        if self.mesa_ratio < 0 or self.mesa_start < 0:
            raise ValueError(f"mesa_ratio={self.mesa_ratio}, mesa_start={self.mesa_start}: neither may be negative")
        if self.mesa_ratio > 0 and self.ema_decay is None:
            raise ValueError(
                f"mesa_ratio={self.mesa_ratio}: MESA learns from the averaged model; set ema_decay too, or mesa_ratio=0"
            )


def debug(run: ClassificationRun) -> ClassificationRun:
    """Return the same run in its debug form: the test model, small images, two epochs; seconds on two cores.

    What the recipe consists of stays on: mixing, erasing, the averaged model, and MESA, which begins in the second
    epoch. Rates that belong to weights that are already good, or to a large batch, would not move anything here.
    """
    return replace(
        run,
        model=replace(run.model, name="a2mamba_test", checkpoint=None, pretrained=False),
        data=replace(run.data, image_size=32, workers=0, batch_size=32, eval_batch_size=64),
        schedule=replace(run.schedule, epochs=2, warmup_epochs=1, cooldown_epochs=0, warmup_lr=1e-4, min_lr=1e-5),
        optimizer=replace(run.optimizer, lr=2e-3),
        ema_decay=None if run.ema_decay is None else min(run.ema_decay, 0.9),
        mesa_start=min(run.mesa_start, 1),
    )


def build_model(run: ClassificationRun, classes: Sequence[str]) -> Pyramid:
    """Return the model of a run, with the weights that it starts from.

    Raises:
        ValueError: where names or weights do not fit; one line.
    """
    with drawn_from(run.seed):
        model = create_model(
            run.model.name,
            pretrained=run.model.pretrained and run.model.checkpoint is None,
            num_classes=len(classes),
            in_chans=run.data.in_chans,
            img_size=run.data.image_size,
            drop_rate=run.model.drop_rate,
            drop_path_rate=run.model.drop_path_rate,
        )
    if run.model.checkpoint is not None:
        load_checkpoint(model, run.model.checkpoint)
    if run.model.checkpointed_blocks is not None:
        model.set_grad_checkpointing(True, run.model.checkpointed_blocks)
    return model


def build_parts(
    run: ClassificationRun, classes: Sequence[str], *, device: torch.device | str
) -> Parts[ClassificationTask, Pyramid]:
    """Return model, task and optimizer of a run, the model on its device.

    Raises:
        ValueError: where names, weights or numbers do not fit; one line.
    """
    model = build_model(run, classes).to(device)
    spared = model.no_weight_decay(original=run.original_weight_decay)
    prepare = BatchTransform(
        mixup=run.data.mixup,
        cutmix=run.data.cutmix,
        smoothing=run.label_smoothing,
        erasing=run.data.reprob,
        mean=run.data.mean,
        std=run.data.std,
        classes=len(classes),
    )
    task = ClassificationTask(model, prepare=prepare, mesa_ratio=run.mesa_ratio, mesa_start=run.mesa_start)
    optimizer = build_optimizer(model, run.optimizer, no_decay=spared, vectors_decay=run.original_weight_decay)
    return Parts(task, model, optimizer, partial(random_batch, run, len(classes)))


def random_batch(run: ClassificationRun, classes: int, size: int) -> ClassificationBatch:
    """A training batch of noise, of the real size: for measuring memory and time without data."""
    side = run.data.image_size
    images = torch.randint(0, 256, (size, run.data.in_chans, side, side), dtype=torch.uint8)
    return ClassificationBatch(images, torch.randint(0, classes, (size,)), [f"noise {i}" for i in range(size)])


def plan(run: ClassificationRun, parts: Parts[ClassificationTask, Pyramid], *, device: torch.device | str) -> BatchPlan:
    """Share the total batch out as `plan_for_device`, in even parts where images are mixed in pairs."""
    total = run.data.batch_size
    trial = ClassificationTask(parts.model, prepare=parts.task.prepare, mesa_ratio=run.mesa_ratio)
    trial.learn_from(parts.model)  # takes as much memory as the averaged model would
    planned = plan_for_device(run, replace(parts, task=trial), device=device, total=total)
    if planned.micro_batch % 2 and (run.data.mixup > 0 or run.data.cutmix > 0):
        raise ValueError(
            f"mixup and cutmix need an even number of images in a forward pass, and data.batch_size={total} gives "
            f"{planned.micro_batch}; change it or micro_batch, or set data.mixup=0 data.cutmix=0"
        )
    return planned


def samples_on_cpu(run: ClassificationRun) -> int:
    """Return the most samples that a measured step has on a CPU."""
    return round(max(_CPU_SAMPLES, _CPU_SAMPLES * (224 / run.data.image_size) ** 2))


def evaluate(
    model: nn.Module,
    run: ClassificationRun,
    loader: Iterable[ClassificationBatch],
    metrics: Sequence[TopK | ConfusionMatrix],
    *,
    device: torch.device | str,
) -> Iterator[tuple[str, float]]:
    """Yield the results of metrics over the batches of ``eval_loader``; the model is used in the mode that it is in.

    Each process looks at the batches of its loader; the results are those of all together.

    Raises:
        ValueError: where an image cannot be decoded, or a logit is not finite.
    """
    memory_format = torch.channels_last if run.channels_last else torch.preserve_format
    with torch.no_grad():
        for batch in loader:
            images = move_to(batch.images, torch.device(device), memory_format)
            logits = model(images)
            for metric in metrics:
                metric.update(logits, batch.targets)
    merge_metrics(metrics)
    for metric in metrics:
        yield from metric.results()


def prepare(run: ClassificationRun, *, device: str) -> Prepared:
    """Return what a run trains, on what, and how it is measured; all that can be wrong with the data shows here.

    Raises:
        ValueError: where configuration, data or a checkpoint do not fit; one line.
    """
    classes = split_classes(run.data, run.data.train_split)
    parts = build_parts(run, classes, device=device)
    planned = plan(run, parts, device=device)
    loader = train_loader(
        run.data, seed=run.seed, rank=rank(), world_size=world_size(), micro_batch=planned.micro_batch
    )
    # Made here, what is wrong with the evaluation split shows now, and its folders are walked once.
    held_out = eval_loader(run.data, classes=classes, rank=rank(), world_size=world_size())

    def measure(network: nn.Module) -> Iterator[tuple[str, float]]:
        for name, value in evaluate(network, run, held_out, [TopK()], device=device):
            # The row of an epoch has the training loss under "loss".
            yield ("eval_loss" if name == "loss" else name), value

    return Prepared(parts, classes, loader, planned.accumulate, measure)


def data_size(run: ClassificationRun) -> DataSize:
    """Return how much there is to train on, or where it is missing what the published data set has."""
    notes: list[str] = []
    try:
        dataset = open_split(run.data, run.data.train_split)
        if run.data.holdout:
            dataset = dataset.part(run.data.holdout, heldout=False)
        classes, samples = dataset.classes, len(dataset)
    except ValueError as error:
        classes, samples = [str(i) for i in range(_IMAGENET_CLASSES)], _IMAGENET_IMAGES
        notes.append(f"ImageNet-1K's {samples:,} images and {len(classes)} classes are assumed: {error}")
    check_batch(run.data, samples)
    return DataSize(classes, samples, samples // run.data.batch_size, notes)


def checkpoint_classes(checkpoint: Path) -> int:
    """Return the number of classes of a checkpoint's classifier.

    Raises:
        ValueError: if the file is not a backbone's, or has no classifier.
    """
    weight = classifier_weight(checkpoint)
    if weight is None:
        raise ValueError(f"{checkpoint} has no classifier, so it cannot predict classes; train one on it first")
    return weight.shape[0]
