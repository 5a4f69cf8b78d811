"""Choosing a recipe for a folder that nobody has described: what is in it, how much of it, and what fits that."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from a2mamba.backbone import list_models, read_file
from a2mamba.data import (
    ClassificationData,
    Recognized,
    SegmentationData,
    UndecodableImageError,
    image_size,
    open_split,
    recognize,
    scan_segmentation,
)
from a2mamba.data.names import some
from a2mamba.detection import detector_config, list_detectors
from a2mamba.recipes.batches import linear_lr
from a2mamba.recipes.detection import coco_1x
from a2mamba.recipes.own_data import finetune
from a2mamba.recipes.segmentation import DATASETS, segman_v2
from a2mamba.segmentation import TEST_MODES, list_segmenters
from a2mamba.tasks import DetectionRun, SegmentationRun

_STRIDE = 32
_TARGET_STEPS = 3000
_SCRATCH_RATE = 5.0  # random weights take a larger rate than good ones
_SMALL = 5000  # images; published sets have more, and are trained by their protocols
_VISITS = 60  # how often a small set's images are seen
_HEADERS = 64  # headers are cheap, and folders may hold a million files
_MIRRORED = "images are mirrored; set data.hflip=0 where a mirrored one means something else"


class Wishes(NamedTuple):
    """What is not to be chosen.

    Args:
        model: a backbone, segmentation network or detector; None: nano on a CPU, tiny elsewhere. A backbone stands for
            the task's network on it.
        checkpoint: weights to begin with; None: the released ones, downloaded once.
        scratch: begin with random weights instead.
        epochs: None: by the number of images.
    """

    model: str | None = None
    checkpoint: Path | None = None
    scratch: bool = False
    epochs: int | None = None


class Choice(NamedTuple):
    """A recipe for a folder. found: what is in it; reasons: one line for each thing that was decided, with why."""

    recipe: str
    run: Any
    found: Recognized
    reasons: list[str]

    def lines(self) -> list[str]:
        """What was recognized, what was chosen and why, for a person."""
        return [*self.found.lines(), f"recipe {self.recipe}", *(f"  {reason}" for reason in self.reasons)]


class _Start(NamedTuple):
    """The weights that a run begins with: what to set of its model, and a line about them."""

    model: dict[str, Any]
    reason: str


def choose_run(root: Path, wishes: Wishes | None = None, *, device: str, layout: str | None = None) -> Choice:
    """Recognize what is in a folder and choose a recipe for it, with numbers that fit its size.

    Args:
        root: the data set.
        wishes: what is not to be chosen.
        device: where it will be trained.
        layout: read the folder as this layout; None: the one that is recognized.

    Raises:
        UnknownLayoutError: the folder does not exist or has no layout that is known.
        ValueError: its data cannot be trained on, or a wish cannot be fulfilled; one line.
    """
    found = recognize(root, layout)
    shortage = found.shortage()
    if shortage is not None:
        raise ValueError(f"{root}: {shortage}")
    choose = {
        "classification": _choose_classification,
        "segmentation": _choose_segmentation,
        "detection": _choose_detection,
    }[found.task]
    return choose(found, wishes or Wishes(), device)


def _choose_classification(found: Recognized, wishes: Wishes, device: str) -> Choice:
    """A backbone fine-tuned on the images, its length by their number."""
    model, why = _network(found, wishes, list_models(), {"": "a2mamba_{size}"}, device)
    reasons = [] if why is None else [why]
    data = found.place(ClassificationData(root=str(found.root)))
    images = open_split(data, data.train_split)
    count = found.training_images
    short = middle_short_side([images.path(index) for index in range(len(images))])
    size = min(max(short // _STRIDE, 1) * _STRIDE, 224)
    reasons.append(f"images of {size} x {size}: the nearest that the images are large enough for, at most 224")
    batch, fitting = fitting_length(count)
    epochs = fitting if wishes.epochs is None else wishes.epochs
    steps = count // batch
    run = finetune(str(found.root))
    lr = linear_lr(batch, per_1024=run.optimizer.lr * 1024 / run.data.batch_size)
    how = f"about {_TARGET_STEPS:,} steps, 10 to 100 epochs" if wishes.epochs is None else "as asked for"
    reasons.append(f"{epochs} epochs of {steps} steps at batch {batch}: {how}")
    if wishes.scratch:
        lr *= _SCRATCH_RATE
    if wishes.checkpoint is not None:
        start = f"begins with {wishes.checkpoint}"
    else:
        start = "begins with random weights" if wishes.scratch else "begins with the released ImageNet weights"
    reasons.append(f"{start}; learning rate {lr:.3g}")
    # A memory of a twentieth of the run, and of no more than 10,000 steps.
    decay = 1 - 1 / min(max(steps * epochs / 20, 2), 10_000)
    reasons.append(f"averaged over the last twentieth of the run: EMA decay {decay:.5g}")
    small = size < 224
    data = replace(
        found.place(run.data),
        image_size=size,
        # Small images are shown whole: their borders hold more of what they show.
        crop_pct=1.0 if small else run.data.crop_pct,
        scale=(0.5, 1.0) if small else run.data.scale,
        batch_size=batch,
    )
    pretrained = wishes.checkpoint is None and not wishes.scratch
    run = replace(
        run,
        model=replace(run.model, name=model, checkpoint=wishes.checkpoint, pretrained=pretrained),
        data=data,
        optimizer=replace(run.optimizer, lr=lr),
        schedule=replace(run.schedule, epochs=epochs, warmup_epochs=min(max(1, epochs // 15), epochs - 1)),
        ema_decay=decay,
    )
    return Choice("finetune", run, found, [*reasons, _MIRRORED])


def _choose_segmentation(found: Recognized, wishes: Wishes, device: str) -> Choice:
    """SegMAN-V2 by the SegFormer protocol; small sets get smaller crops where their images are, and fewer steps."""
    systems = {
        "a2mamba_": "segman_v2_{size}",
        "segman_encoder_": "segman_{size}",
        "": "segman_v2_{size}",
    }
    model, why = _network(found, wishes, list_segmenters(), systems, device)
    protocol = next((name for name in DATASETS if name == found.layout), DATASETS[0])
    run: SegmentationRun = segman_v2("nano", protocol)
    start = _start(wishes, found.task)
    test = TEST_MODES["ade20k_swin"] if model.startswith("upernet_") and protocol == "ade20k" else run.test
    run = replace(run, model=replace(run.model, name=model, **start.model), data=found.place(run.data), test=test)
    if model.startswith("upernet_"):
        run = replace(run, decoder_lr_scale=1.0)
    reasons = [] if why is None else [why]
    count = found.training_images
    if count < _SMALL:
        pairs = scan_segmentation(found.root, found.layout, next(iter(found.counts))).pairs
        short = min(middle_short_side([pair.image for pair in pairs]), 512)
        crop = max(short // _STRIDE, 1) * _STRIDE
        batch = next((batch for batch in (16, 8, 4) if count >= 4 * batch), 2)
        interval = max(50, count * _VISITS // batch // 10)
        if wishes.epochs is not None:
            interval = max(1, round(count / batch * wishes.epochs / 10))
        data: SegmentationData = replace(run.data, crop_size=(crop, crop), resize=(4 * short, short), batch_size=batch)
        schedule = replace(run.schedule, iterations=10 * interval, interval=interval, warmup_iterations=interval // 2)
        # The protocol's rate is for 160,000 steps; a short run takes a larger one.
        optimizer = replace(run.optimizer, lr=3e-4)
        run = replace(run, data=data, schedule=schedule, optimizer=optimizer, decoder_lr_scale=5.0)
        run = replace(run, test=replace(run.test, mode="whole", box=(4 * short, short)))
        reasons.append(f"crops of {crop} x {crop}, {10 * interval:,} steps of {batch}: few and small images")
    elif wishes.epochs is not None:
        raise ValueError(f"--epochs is for small data sets; set schedule.iterations for the {count:,} images")
    name = f"{model}_{protocol}" if not model.startswith("upernet_") else f"upernet_{model[16:]}_ade20k"
    return Choice(name, run, found, [*reasons, start.reason, _MIRRORED])


def _choose_detection(found: Recognized, wishes: Wishes, device: str) -> Choice:
    """Mask R-CNN by the short schedule; small images are not enlarged."""
    systems = {"a2mamba_": "mask_rcnn_a2mamba_{size}", "": "mask_rcnn_a2mamba_{size}"}
    model, why = _network(found, wishes, list_detectors(), systems, device)
    kind, size = model.split("_a2mamba_")
    run: DetectionRun = coco_1x(kind, size if size != "test" else "nano")
    start = _start(wishes, found.task)
    run = replace(run, model=replace(run.model, name=model, **start.model), data=found.place(run.data))
    run = replace(run, detector=detector_config(model))
    reasons = [] if why is None else [why]
    count = found.training_images
    if count < _SMALL:
        short = min(found.short_side or 800, 800)
        long = max(short * 5 // 3, short + 1)
        batch = next((batch for batch in (16, 8, 4) if count >= 4 * batch), 2)
        epochs = wishes.epochs or min(max(_VISITS, 12), 100)
        steps = max(1, epochs * 3 // 4), max(2, epochs * 11 // 12)
        data = replace(run.data, min_sizes=(short,), max_size=long, crop_resize_sizes=(short,), batch_size=batch)
        warmup = min(500, max(1, count // batch * epochs // 20))
        schedule = replace(run.schedule, epochs=epochs, milestones=steps, warmup_iterations=warmup)
        run = replace(run, data=data, schedule=schedule, optimizer=replace(run.optimizer, lr=2e-4))
        run = replace(run, detector=replace(run.detector, min_size=short, max_size=long))
        reasons.append(f"short sides of {short} pixels, {epochs} epochs at batch {batch}: few and small images")
    elif wishes.epochs is not None:
        ends = wishes.epochs * 2 // 3, wishes.epochs * 11 // 12
        run = replace(run, schedule=replace(run.schedule, epochs=wishes.epochs, milestones=ends))
    return Choice(f"{model.replace('a2mamba_', '')}_1x", run, found, [*reasons, start.reason, _MIRRORED])


def _network(
    found: Recognized, wishes: Wishes, networks: Sequence[str], systems: dict[str, str], device: str
) -> tuple[str, str | None]:
    """The network's name, and a line about the choice; None where it was asked for.

    Args:
        found: the folder.
        wishes: a network of the task, or a backbone, which stands for a system on it.
        networks: those of the task.
        systems: beginning of a backbone's name -> the system on it; "" for the one to choose.
        device: where it will be trained.

    Raises:
        ValueError: an unknown name, or one of another task; the message has near names.
    """
    if wishes.model is None:
        stored = None if wishes.checkpoint is None else _stored(wishes.checkpoint)
        if stored is not None and stored["task"] == found.task:
            name = stored["config"]["model"]["name"]
            return name, f"{name}: the network of {wishes.checkpoint}"
        size = "nano" if device == "cpu" else "tiny"
        name = systems[""].format(size=size)
        return name, f"{name}: the size for a {'CPU' if device == 'cpu' else 'GPU'}; --model chooses another"
    if wishes.model in networks:
        return wishes.model, None
    if wishes.model in list_models():
        for beginning, system in systems.items():
            name = system.format(size=wishes.model.removeprefix(beginning))
            if beginning and wishes.model.startswith(beginning) and name in networks:
                return name, f"{name}: the network for {found.task} on {wishes.model}"
    everything = [*list_models(), *list_segmenters(), *list_detectors()]
    near = difflib.get_close_matches(wishes.model, networks, n=3, cutoff=0.5) or networks
    if wishes.model in everything:
        raise ValueError(f"--model {wishes.model} is not for {found.task}; those are {some(near)}")
    raise ValueError(
        f"unknown model {wishes.model!r} for {found.task}; did you mean {some(map(repr, near or networks))}?"
    )


def _start(wishes: Wishes, task: str) -> _Start:
    """Weights for a network on a backbone: of the whole of it where the file is a training checkpoint of its task."""
    if wishes.checkpoint is None:
        weights = "random weights" if wishes.scratch else "the released ImageNet weights"
        return _Start({"pretrained_backbone": not wishes.scratch}, f"the backbone begins with {weights}")
    stored = _stored(wishes.checkpoint)
    if stored is not None and stored["task"] == task:
        return _Start({"checkpoint": wishes.checkpoint}, f"begins with {wishes.checkpoint}")
    return _Start({"backbone_checkpoint": wishes.checkpoint}, f"the backbone begins with {wishes.checkpoint}")


def _stored(checkpoint: Path) -> dict[str, Any] | None:
    """What a training checkpoint says about its run; None where the file is none, or is not there yet."""
    if not checkpoint.is_file():
        return None
    run = read_file(checkpoint).get("run")
    stored = json.loads(run) if isinstance(run, str) else None
    return stored if isinstance(stored, dict) and {"task", "config"} <= stored.keys() else None


def fitting_length(images: int) -> tuple[int, int]:
    """Batch and epochs for 4 images or more: at least some 20 steps an epoch where possible, about 3,000 in all."""
    batch = next((size for size in (128, 64, 32, 16, 8) if images >= 20 * size), 4)
    return batch, min(max(round(_TARGET_STEPS / (images // batch)), 10), 100)


def middle_short_side(files: Sequence[str]) -> int:
    """The median of the images' short sides in pixels, from the headers of some of them.

    Raises:
        ValueError: none of them is an image.
    """
    chosen = files[:: max(1, len(files) // _HEADERS)]
    sides = []
    for file in chosen:
        try:
            size = image_size(file)
        except UndecodableImageError:
            continue
        sides.append(min(size.height, size.width))
    if not sides:
        raise ValueError(f"none of {some(chosen)} is an image; run: a2mamba data check")
    return int(median(sides))
