"""Detection runs: their configuration, the recipes that fill it, and the assembly of model, data and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from a2mamba.backbone import load_checkpoint
from a2mamba.data import (
    DetectionBatch,
    DetectionData,
    eval_detection_loader,
    read_detection_split,
    train_detection_loader,
)
from a2mamba.detection import Detector, DetectorConfig, create_detector, detector_config
from a2mamba.engine import (
    OptimizerConfig,
    StepScheduleConfig,
    build_optimizer,
    merge_metrics,
    rank,
    world_size,
)
from a2mamba.evaluation import CocoMetric
from a2mamba.evaluation.coco import IouType
from a2mamba.recipes.batches import BatchPlan
from a2mamba.recipes.dry_run import DataSize, plan_for_device
from a2mamba.recipes.training import Parts, Prepared, SystemConfig, TrainingRun, drawn_from
from a2mamba.tasks import DetectionTask


@dataclass(frozen=True, kw_only=True)
class DetectorModelConfig(SystemConfig):
    """Which detector, and what of its backbone the run decides."""

    stored_size: tuple[int, int] = (224, 224)
    """height and width in pixels for which the bias of the backbone's global attention is stored"""
    grad_checkpointing: bool = False
    """recompute the backbone's activations in the backward: less memory, more time"""

    def __post_init__(self) -> None:
        detector_config(self.name)  # says which name is nearest


@dataclass(frozen=True, kw_only=True)
class DetectionRun(TrainingRun):
    """Everything that decides a detection run."""

    task = "detection"
    metric = "box_ap"

    model: DetectorModelConfig
    detector: DetectorConfig
    data: DetectionData
    schedule: StepScheduleConfig


# ------------------------------------------------------------------------------------------------------------- recipes

_DROP_PATH = {"nano": 0.05, "tiny": 0.2, "small": 0.3, "base": 0.4, "large": 0.5, "large_paper": 0.5}


def _coco(kind: str, size: str, schedule: StepScheduleConfig, *, multi_scale: bool) -> DetectionRun:
    name = f"{kind}_a2mamba_{size}"
    data = DetectionData(root="data/coco")
    if not multi_scale:
        data = replace(data, min_sizes=(800,), crop_probability=0.0)
    return DetectionRun(
        model=DetectorModelConfig(name=name, drop_path_rate=_DROP_PATH[size]),
        detector=detector_config(name),
        data=data,
        optimizer=OptimizerConfig(lr=1e-4, weight_decay=0.05, clip_grad_norm=None),
        schedule=schedule,
    )


def coco_3x(kind: str, size: str) -> DetectionRun:
    """Train a detector on COCO 2017 for 36 epochs, at several scales: the paper's schedule.

    Source: section 4.2 names Swin's protocol, whose numbers these are. The drop path is not stated; 0.3, 0.4 and 0.5
    for S, B and L lie in the middle of what comparable backbones take (`model.drop_path_rate`). Published runs of the
    protocol differ in precision; here it is bfloat16 where the device has it. The paper's L is that of its Table I:
    `large_paper`.
    Command: a2mamba train mask_rcnn_small_3x data.root=DIR model.pretrained_backbone=true
    Hardware and time: 264,000 steps of 16 images of up to 800 x 1333; made for 8 GPUs.
    Expected: box and mask AP of Tables IV (Mask R-CNN) and V (Cascade). Not measured by us.
    """
    return _coco(kind, size, StepScheduleConfig(epochs=36, milestones=(27, 33)), multi_scale=True)


def coco_1x(kind: str, size: str) -> DetectionRun:
    """Train a detector on COCO 2017 for 12 epochs at one scale: the field's short schedule.

    Source: Swin's protocol in its short form; the paper does not use it.
    Command: a2mamba train mask_rcnn_small_1x data.root=DIR model.pretrained_backbone=true
    Hardware and time: 88,000 steps of 16 images of 800 x 1333 at most; made for 8 GPUs.
    Expected: not measured by us.
    """
    return _coco(kind, size, StepScheduleConfig(epochs=12, milestones=(8, 11)), multi_scale=False)


def digit_objects(kind: str = "mask_rcnn", root: str = "demo/data") -> DetectionRun:
    """Train a detector with narrow heads on the embedded scenes of digits: the demonstration.

    Source: our own; scenes of 128 x 160 pixels with 0 to 6 digits, 10 classes. Heads and pyramid are a quarter as wide
    as the protocol's, anchors smaller, fewer proposals are kept, and there is an averaged model. `objects_cascade` is
    the same with three stages.
    Command: a2mamba train objects data.root=demo/data/coco model.backbone_checkpoint=demo/run/checkpoints/best.pt
    Hardware and time: one CPU core (OMP_NUM_THREADS=1), ten minutes of its time; the cascade two, under torchrun.
    Expected: at least 50 % box AP50 and 45 % mask AP50 on the held-out scenes; `make demo-detect` measures it.
    Measured: Mask R-CNN, seed 42, twice: box AP50 78.8 and 76.8 %, mask AP50 73.3 and 69.9 % (box AP 51.2 and 48.9,
    mask AP 42.4 and 40.9), the averaged model after the last epoch, which is its best; eleven and a half minutes, the
    evaluations among them. Eight scenes are learnt by heart to box AP 98.7, by the cascade to 92.3
    (`benchmarks/overfit.py`). The cascade by two processes, seed 42, norms not synchronized: box AP50 81.4 %, mask AP50
    75.7 % (box AP 55.9, mask AP 41.5) in 10 min 27 s from start to end; in twelve epochs 88.0 and 83.8 %.
    """
    name = f"{kind}_a2mamba_nano"
    # The cascade's steps take longer, and its boxes are sooner good.
    epochs, milestones, evaluate_every = (12, (9, 11), 4) if kind == "mask_rcnn" else (9, (7, 8), 5)
    config = detector_config(name).narrowed(fpn_width=64, box_fc_width=256)
    config = replace(
        config,
        min_size=128,
        max_size=192,
        rpn=replace(
            config.rpn,
            anchor_sizes=(16.0, 32.0, 48.0, 64.0, 96.0),
            pre_nms_train=300,
            post_nms_train=150,
            pre_nms_test=300,
            post_nms_test=100,
        ),
        roi=replace(config.roi, mask_convs=2, batch_per_image=64, detections_per_image=20),
    )
    return DetectionRun(
        model=DetectorModelConfig(name=name, stored_size=(128, 160)),
        detector=config,
        data=DetectionData(
            root=f"{root}/coco",
            hflip=0.0,
            min_sizes=(112, 128, 144),
            max_size=192,
            crop_probability=0.0,
            crop_resize_sizes=(128,),
            crop_size=(96, 128),
            batch_size=8,
            eval_batch_size=4,
            workers=0,
        ),
        optimizer=OptimizerConfig(lr=5e-4, weight_decay=0.05, clip_grad_norm=5.0),
        schedule=StepScheduleConfig(epochs=epochs, milestones=milestones, warmup_iterations=50, warmup_factor=0.01),
        evaluate_every=evaluate_every,
        ema_decay=0.98,
    )


SIZES = ("nano", "tiny", "small", "base", "large", "large_paper")

RECIPES: dict[str, Callable[[], DetectionRun]] = {
    "objects": digit_objects,
    "objects_cascade": partial(digit_objects, "cascade_mask_rcnn"),
    **{
        f"{kind}_{size}_{length}": partial(schedule, kind, size)
        for kind in ("mask_rcnn", "cascade_mask_rcnn")
        for size in SIZES
        for length, schedule in (("3x", coco_3x), ("1x", coco_1x))
    },
}


def run_of_model(name: str) -> DetectionRun:
    """Return a run that looks at images as a detector's own recipe does.

    Raises:
        ValueError: for an unknown name, naming the nearest.
    """
    run = coco_3x("mask_rcnn", "nano")
    return replace(run, model=DetectorModelConfig(name=name), detector=detector_config(name))


def debug(run: DetectionRun) -> DetectionRun:
    """Return the same run in its debug form: a test detector, small images, two epochs; seconds on two cores."""
    kind = run.model.name.partition("_a2mamba_")[0]
    name = f"{kind}_a2mamba_test"
    return replace(
        run,
        model=DetectorModelConfig(name=name),
        detector=detector_config(name),
        data=replace(
            run.data,
            min_sizes=(64, 96),
            max_size=160,
            crop_resize_sizes=(96,),
            crop_size=(64, 96),
            workers=0,
            batch_size=8,
            eval_batch_size=4,
        ),
        schedule=StepScheduleConfig(epochs=2, milestones=(1,), warmup_iterations=2),
        micro_batch=None,
    )


# ----------------------------------------------------------------------------------------------------------- assembly


def build_model(run: DetectionRun, classes: Sequence[str]) -> Detector:
    """Return the model of a run, with the weights that it starts from.

    Raises:
        ValueError: where names or weights do not fit; one line.
    """
    with drawn_from(run.seed):
        model = create_detector(
            run.model.name,
            num_classes=len(classes),
            backbone_checkpoint=run.model.backbone_checkpoint,
            pretrained_backbone=run.model.pretrained_backbone,
            drop_path_rate=run.model.drop_path_rate,
            img_size=run.model.stored_size,
            config=run.detector,
        )
    if run.model.checkpoint is not None:
        load_checkpoint(model, run.model.checkpoint)
    if run.model.grad_checkpointing:
        model.set_grad_checkpointing()
    return model


def evaluate(
    model: nn.Module, loader: Iterable[DetectionBatch], metric: CocoMetric, *, device: torch.device | str
) -> Iterator[tuple[str, float]]:
    """Yield the results of a metric over the images of ``eval_detection_loader``; the model is in eval mode.

    Of several processes each looks at its own images, and all get the results of all.

    Raises:
        ValueError: where an image cannot be decoded, or does not fit its annotations.
    """
    with torch.inference_mode():
        for batch in loader:
            outputs = model([image.to(device).float() / 255 for image in batch.images])
            metric.update([target["image_id"] for target in batch.targets], outputs)
    merge_metrics([metric])
    yield from metric.results()


def prepare(run: DetectionRun, *, device: str) -> Prepared:
    """Return what a run trains, on what, and how it is measured; all that can be wrong with the data shows here.

    Raises:
        ValueError: where configuration, data or a checkpoint do not fit; one line.
    """
    annotations = read_detection_split(run.data, "train")
    classes = [category.name for category in annotations.categories]
    parts = build_parts(run, classes, device=device)
    shared = plan(run, parts, device=device)
    loader = train_detection_loader(
        run.data,
        annotations=annotations,
        seed=run.seed,
        rank=rank(),
        world_size=world_size(),
        micro_batch=shared.micro_batch,
    )
    # Read here, what is wrong with the evaluation data shows now, and they are read once.
    held_out_objects = read_detection_split(run.data, "val", categories=annotations.categories)
    held_out = eval_detection_loader(run.data, annotations=held_out_objects, rank=rank(), world_size=world_size())
    truth = CocoMetric(held_out_objects, iou_types=metric_types(run))

    def measure(network: nn.Module) -> Iterator[tuple[str, float]]:
        yield from evaluate(network, held_out, truth.emptied(), device=device)

    return Prepared(parts, classes, loader, shared.accumulate, measure)


def data_size(run: DetectionRun) -> DataSize:
    """Return how much there is to train on, or where it is missing what the published data set has."""
    notes: list[str] = []
    try:
        annotations = read_detection_split(run.data, "train", masks=False)
        samples, classes = len(annotations.image_ids), [category.name for category in annotations.categories]
    except ValueError as error:
        samples, classes = _COCO_IMAGES, [str(i) for i in range(_COCO_CLASSES)]
        notes.append(f"{samples:,} images and {len(classes)} classes are assumed, as in COCO 2017: {error}")
    return DataSize(classes, samples, max(1, samples // run.data.batch_size), notes)


_COCO_IMAGES, _COCO_CLASSES = 117_266, 80
_OBJECTS = 10  # in an image of noise


def build_parts(
    run: DetectionRun, classes: Sequence[str], *, device: torch.device | str
) -> Parts[DetectionTask, Detector]:
    """Return model, task and optimizer of a run, the model on its device.

    Raises:
        ValueError: where names, weights or numbers do not fit; one line.
    """
    model = build_model(run, classes).to(device)
    spared = model.no_weight_decay()
    optimizer = build_optimizer(model, run.optimizer, no_decay=spared, vectors_decay=True)
    return Parts(DetectionTask(model), model, optimizer, partial(random_batch, run, len(classes)))


def plan(run: DetectionRun, parts: Parts[DetectionTask, Detector], *, device: torch.device | str) -> BatchPlan:
    """Share the total batch out as `plan_for_device`."""
    return plan_for_device(run, parts, device=device, total=run.data.batch_size)


def samples_on_cpu(run: DetectionRun) -> int:
    """Return the most samples that a measured step has on a CPU."""
    return 1


def random_batch(run: DetectionRun, classes: int, size: int) -> DetectionBatch:
    """A training batch of noise, of the largest size that images have: for measuring memory and time without data."""
    width = run.data.max_size
    height = min(max(run.data.min_sizes), width)
    corner = torch.rand(size, _OBJECTS, 2) * torch.tensor([width, height]) / 2
    boxes = torch.cat((corner, corner + torch.tensor([width, height]) / 4), dim=2)
    targets = [
        {
            "boxes": boxes[i],
            "labels": torch.randint(1, classes + 1, (_OBJECTS,)),
            "masks": torch.ones(_OBJECTS, height, width, dtype=torch.uint8),
        }
        for i in range(size)
    ]
    return DetectionBatch([torch.rand(3, height, width) for _ in targets], targets, [f"noise {i}" for i in range(size)])


def metric_types(run: DetectionRun) -> tuple[IouType, ...]:
    """Return what a run is measured by: boxes, and masks where it learns them."""
    return ("bbox", "segm") if run.data.masks else ("bbox",)
