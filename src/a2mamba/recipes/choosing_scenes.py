"""Choosing a recipe for images with class maps, and for images with objects: rows of `choosing.LAYOUTS`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from a2mamba.data import (
    SEGMENTATION_LAYOUTS,
    find_detection,
    read_detection_split,
    scan_segmentation,
    with_detection_source,
)
from a2mamba.data.segmentation_files import expected_layout
from a2mamba.recipes.choice import Choice, Layout, Wishes
from a2mamba.recipes.detection import coco_1x
from a2mamba.recipes.image_sizes import middle_short_side
from a2mamba.recipes.segmentation import DATASETS, segman_v2

_SMALL = 5000  # images; published sets have more, and are trained by their protocols
_VISITS = 60  # how often a small set's images are seen


def _size(device: str, wishes: Wishes, prefix: str) -> tuple[str, str]:
    """The size of the network, and why."""
    if wishes.model is not None:
        return wishes.model.removeprefix(prefix), f"{wishes.model}: as asked for"
    size = "nano" if device == "cpu" else "tiny"
    return size, f"{prefix}{size}: the size for a {'CPU' if device == 'cpu' else 'GPU'}; --model chooses another"


def _start(run: Any, wishes: Wishes) -> tuple[Any, str]:
    """The run with its start weights, and a line about them."""
    model = replace(
        run.model,
        backbone_checkpoint=wishes.checkpoint,
        pretrained_backbone=wishes.checkpoint is None and not wishes.scratch,
    )
    if wishes.checkpoint is not None:
        return replace(run, model=model), f"the backbone begins with {wishes.checkpoint}"
    weights = "random weights" if wishes.scratch else "the released ImageNet weights"
    return replace(run, model=model), f"the backbone begins with {weights}"


def is_segmentation(root: Path, *, layout: str) -> bool:
    """Whether a folder has images and label files where a layout keeps them."""
    shape = SEGMENTATION_LAYOUTS[layout]
    return all((root / kind / shape.train_split).is_dir() for kind in (shape.images, shape.labels))


def choose_segmentation(root: Path, wishes: Wishes, device: str, *, layout: str) -> Choice:
    """SegMAN-V2 by the SegFormer protocol; small sets get smaller crops where their images are, and fewer steps."""
    pairs = scan_segmentation(root, layout, SEGMENTATION_LAYOUTS[layout].train_split).pairs
    reasons = [f"layout {layout}: {len(pairs):,} training images with class maps"]
    size, why = _size(device, wishes, "segman_v2_")
    reasons.append(why)
    protocol = next((name for name in DATASETS if name == layout), DATASETS[0])
    recipe = f"segman_v2_{size}_{protocol}"
    run = segman_v2(size, protocol)
    data = replace(run.data, root=str(root), layout=layout)
    if len(pairs) < _SMALL:
        short = min(middle_short_side([pair.image for pair in pairs]), 512)
        crop = max(short // 32, 1) * 32
        batch = next((batch for batch in (16, 8, 4) if len(pairs) >= 4 * batch), 2)
        interval = max(50, len(pairs) * _VISITS // batch // 10)
        data = replace(data, crop_size=(crop, crop), resize=(4 * short, short), batch_size=batch)
        if wishes.epochs is not None:
            interval = max(1, round(len(pairs) / batch * wishes.epochs / 10))
        schedule = replace(run.schedule, iterations=10 * interval, interval=interval, warmup_iterations=interval // 2)
        # The protocol's rate is for 160,000 steps; a short run takes a larger one.
        run = replace(run, schedule=schedule, optimizer=replace(run.optimizer, lr=3e-4), decoder_lr_scale=5.0)
        run = replace(run, test=replace(run.test, mode="whole", box=(4 * short, short)))
        reasons.append(f"crops of {crop} x {crop}, {10 * interval:,} steps of {batch}: few and small images")
    elif wishes.epochs is not None:
        raise ValueError(f"--epochs is for small data sets; set schedule.iterations for the {len(pairs):,} images")
    run, start = _start(replace(run, data=data), wishes)
    reasons.append(start)
    if data.hflip:
        reasons.append("images are mirrored; set data.hflip=0 where a mirrored one means something else")
    return Choice(recipe, run, reasons)


def is_detection(root: Path) -> bool:
    """Whether a folder has images with objects."""
    return find_detection(root) is not None


def choose_detection(root: Path, wishes: Wishes, device: str) -> Choice:
    """Mask R-CNN by the short schedule; small images are not enlarged."""
    source = find_detection(root)
    assert source is not None, "recognized before"
    reasons = [source.description]
    size, why = _size(device, wishes, "mask_rcnn_a2mamba_")
    reasons.append(why)
    run = coco_1x("mask_rcnn", size)
    data = with_detection_source(run.data, source)
    annotations = read_detection_split(data, "train")
    count = len(annotations.image_ids)
    if data.holdout:
        reasons.append(f"{data.holdout:.0%} of the images are held out for evaluation: there is one split")
    if count < _SMALL:
        short = min(middle_short_side([str(data.train_paths()[0] / name) for name in annotations.file_names]), 800)
        long = max(short * 5 // 3, short + 1)
        batch = next((batch for batch in (16, 8, 4) if count >= 4 * batch), 2)
        epochs = wishes.epochs or min(max(_VISITS, 12), 100)
        steps = max(1, epochs * 3 // 4), max(2, epochs * 11 // 12)
        data = replace(data, min_sizes=(short,), max_size=long, crop_resize_sizes=(short,), batch_size=batch)
        warmup = min(500, max(1, count // batch * epochs // 20))
        schedule = replace(run.schedule, epochs=epochs, milestones=steps, warmup_iterations=warmup)
        run = replace(run, schedule=schedule, optimizer=replace(run.optimizer, lr=2e-4))
        run = replace(run, detector=replace(run.detector, min_size=short, max_size=long))
        reasons.append(f"short sides of {short} pixels, {epochs} epochs at batch {batch}: few and small images")
    elif wishes.epochs is not None:
        ends = wishes.epochs * 2 // 3, wishes.epochs * 11 // 12
        run = replace(run, schedule=replace(run.schedule, epochs=wishes.epochs, milestones=ends))
    run, start = _start(replace(run, data=data), wishes)
    reasons.append(start)
    if data.hflip:
        reasons.append("images are mirrored; set data.hflip=0 where a mirrored one means something else")
    return Choice(f"mask_rcnn_{size}_1x", run, reasons)


SCENES: tuple[Layout, ...] = (
    *(
        Layout(
            name=name,
            expected=expected_layout(name),
            recognize=partial(is_segmentation, layout=name),
            choose=partial(choose_segmentation, layout=name),
        )
        for name in SEGMENTATION_LAYOUTS
    ),
    Layout(
        name="COCO annotations",
        expected="<root>/annotations/instances_<split>.json and <root>/<split>/<image>",
        recognize=is_detection,
        choose=choose_detection,
    ),
)
