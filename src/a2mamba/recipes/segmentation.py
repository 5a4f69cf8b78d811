"""Segmentation runs: their configuration, the recipes that fill it, and the assembly of model, data and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from a2mamba.data import (
    SegmentationBatch,
    SegmentationData,
    SegmentationImage,
    class_shares,
    eval_segmentation_loader,
    scan_segmentation,
    segmentation_classes,
    train_segmentation_loader,
    train_split,
)
from a2mamba.engine import (
    OptimizerConfig,
    PolynomialScheduleConfig,
    build_optimizer,
    merge_metrics,
    rank,
    world_size,
)
from a2mamba.evaluation import MeanIoU
from a2mamba.recipes.batches import BatchPlan
from a2mamba.recipes.dry_run import DataSize, plan_for_device
from a2mamba.recipes.training import Parts, Prepared, SystemConfig, TrainingRun, drawn_from
from a2mamba.segmentation import Segmenter, create_segmenter, list_segmenters
from a2mamba.segmentation.inference import TEST_MODES, TestMode, predict
from a2mamba.tasks import SegmentationTask

Dataset = Literal["ade20k", "cityscapes", "coco_stuff"]


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(SystemConfig):
    """Which segmentation network, and what of it the run decides."""

    width: int | None = None
    """channels of the decoder; none: those of the system"""

    def __post_init__(self) -> None:
        if self.name not in list_segmenters():
            create_segmenter(self.name, num_classes=1)  # says which name is nearest


@dataclass(frozen=True, kw_only=True)
class SegmentationRun(TrainingRun):
    """Everything that decides a segmentation run."""

    task = "segmentation"
    metric = "miou"

    model: SegmenterConfig
    data: SegmentationData
    schedule: PolynomialScheduleConfig
    test: TestMode
    """how images of the held-out split are looked at"""
    decoder_lr_scale: float = 1.0
    """factor of the learning rate of everything outside the backbone"""
    auxiliary_weight: float = 0.4
    """weight of the auxiliary head's loss; without effect for systems that have none"""
    average: Literal["all", "valid"] = "all"
    """mean of the loss over all pixels, ignored ones in the denominator, or over the labeled ones"""
    class_prior: bool = False
    """start the classifiers at the classes' shares of the training pixels instead of at zero, as the protocols do: for
    backbones that begin from little, and data of which one class has nearly everything"""


# ---------------------------------------------------------------------------------------------------------- protocols


@dataclass(frozen=True)
class _Protocol:
    """What the SegFormer protocol fixes for a data set."""

    crop: int
    resize: tuple[int, int]
    batch: int
    interval: int
    test: TestMode


_SEGFORMER: dict[Dataset, _Protocol] = {
    "ade20k": _Protocol(512, (2048, 512), 16, 8000, TEST_MODES["ade20k"]),
    "cityscapes": _Protocol(1024, (2048, 1024), 8, 4000, TEST_MODES["cityscapes"]),
    "coco_stuff": _Protocol(512, (2048, 512), 16, 8000, TEST_MODES["coco_stuff"]),
}
_FOLDERS: dict[Dataset, str] = {
    "ade20k": "data/ADEChallengeData2016",
    "cityscapes": "data/cityscapes",
    "coco_stuff": "data/coco_stuff164k",
}


def _segformer_protocol(model: SegmenterConfig, dataset: Dataset) -> SegmentationRun:
    protocol = _SEGFORMER[dataset]
    return SegmentationRun(
        model=model,
        data=SegmentationData(
            root=_FOLDERS[dataset],
            layout=dataset,
            crop_size=(protocol.crop, protocol.crop),
            resize=protocol.resize,
            batch_size=protocol.batch,
        ),
        optimizer=OptimizerConfig(lr=6e-5, weight_decay=0.01, clip_grad_norm=None),
        schedule=PolynomialScheduleConfig(iterations=160_000, interval=protocol.interval),
        test=protocol.test,
        decoder_lr_scale=10.0,
        precision="float32",
    )


def segman_v2(size: str, dataset: Dataset) -> SegmentationRun:
    """Train SegMAN-V2, the paper's segmentation network, by SegFormer's protocol.

    Source: section 4.3 and Table VII name the protocol and the data sets; rates, crops and test modes are those of
    SegMAN's published configurations. Neither states the drop path: it is 0 here, as those configurations run
    (`model.drop_path_rate`), and what was reported of it says that 0.25 helps SegMAN-B on ADE20K. COCO-Stuff may have
    been trained for 80,000 iterations (`schedule.iterations`).
    Command: a2mamba train segman_v2_tiny_ade20k data.root=DIR model.backbone_checkpoint=FILE
    Hardware and time: 160,000 iterations of 16 crops of 512 x 512, on Cityscapes 8 of 1024 x 1024; for 4 to 8 GPUs.
    Expected: mIoU of N, S, B, L: ADE20K 44.4, 52.0, 53.5, 54.1; Cityscapes 81.0, 83.8, 84.2, 84.6; COCO-Stuff 41.9,
    48.0, 49.0, 49.5 (Table VII, single scale); T on ADE20K 49.7 (Table XIII). Not measured by us.
    """
    return _segformer_protocol(SegmenterConfig(name=f"segman_v2_{size}"), dataset)


def segman(size: str, dataset: Dataset) -> SegmentationRun:
    """Train SegMAN, the predecessor, by SegFormer's protocol.

    Source: SegMAN's published configurations. Its decoder is 152 wide, not 144, for S on Cityscapes; L looks at whole
    images of Cityscapes, the others slide. The drop path is 0 there (see `segman_v2`).
    Command: a2mamba train segman_tiny_ade20k data.root=DIR model.backbone_checkpoint=FILE
    Hardware and time: as `segman_v2`.
    Expected: the figures of its paper; not measured by us.
    """
    width = 152 if (size, dataset) == ("small", "cityscapes") else None
    run = _segformer_protocol(SegmenterConfig(name=f"segman_{size}", width=width), dataset)
    if (size, dataset) == ("large", "cityscapes"):
        run = replace(run, test=TEST_MODES["cityscapes_whole"])
    return run


_UPERNET_DROP_PATH = {"nano": 0.05, "tiny": 0.2, "small": 0.3, "base": 0.4, "large": 0.5, "large_paper": 0.5}


def upernet(size: str) -> SegmentationRun:
    """Train UperNet on ADE20K by Swin's protocol.

    Source: section 4.3 and Table VI name the protocol, whose numbers these are. The drop path is not stated; 0.3, 0.4
    and 0.5 for S, B and L lie in the middle of what comparable backbones take (`model.drop_path_rate`). The paper's L
    is the one of its Table I: `upernet_large_paper_ade20k`.
    Command: a2mamba train upernet_small_ade20k data.root=DIR model.pretrained_backbone=true
    Hardware and time: 160,000 iterations of 16 crops of 512 x 512; made for 8 GPUs.
    Expected: mIoU of S, B, L: 51.6, 53.3, 53.7, and 52.0, 53.9, 54.1 at several scales (`--ms`) (Table VI). Not
    measured by us.
    """
    run = _segformer_protocol(
        SegmenterConfig(name=f"upernet_a2mamba_{size}", drop_path_rate=_UPERNET_DROP_PATH[size]), "ade20k"
    )
    return replace(run, decoder_lr_scale=1.0, test=TEST_MODES["ade20k_swin"])


def scenes(root: str = "demo/data") -> SegmentationRun:
    """Train SegMAN-V2-nano with a narrow decoder on the embedded scenes of digits: the demonstration.

    Source: our own; scenes of 128 x 160 pixels with 0 to 6 digits, 11 classes. The decoder is 64 channels wide. Scenes
    are looked at 0.57 times as large, through windows of the size of the training crops, at five scales: the network
    has seen nothing else, and whole scenes cost 9 points. The classifiers begin with the classes' shares: from zero,
    hundreds of steps learn these and nothing else.
    Command: a2mamba train scenes model.backbone_checkpoint=demo/run/checkpoints/best.pt
    Hardware and time: two processes of one thread on two cores, under torchrun: 0.45 to 0.56 s a step, by what else the
    host does.
    Expected: a mean IoU of about 71 % on the held-out scenes; `make demo` measures it, and wants 65 %.
    Measured: 72.4 %; 69.9 % in 1,300 steps. On half as many scenes 70.8 %, at one scale instead of five 67.7 %.
    """
    return SegmentationRun(
        model=SegmenterConfig(name="segman_v2_nano", width=64),
        data=SegmentationData(
            root=f"{root}/ADEChallengeData2016",
            crop_size=(64, 64),
            resize=(91, 73),
            ratio=(0.95, 1.05),
            category_limit=0.8,
            hflip=0.0,
            photometric=False,
            batch_size=32,
            workers=0,
        ),
        optimizer=OptimizerConfig(lr=1.2e-3, weight_decay=0.05, betas=(0.9, 0.98), clip_grad_norm=5.0),
        schedule=PolynomialScheduleConfig(iterations=1500, interval=750, warmup_iterations=50, warmup_factor=0.01),
        test=TestMode(mode="slide", box=(91, 73), crop=64, stride=32, scales=(0.75, 0.87, 1.0, 1.15, 1.3)),
        decoder_lr_scale=3.3,
        evaluate_every=2,
        ema_decay=0.98,
        average="valid",
        class_prior=True,
        sync_batch_norm=False,
    )


def scenes_upernet(root: str = "demo/data") -> SegmentationRun:
    """Train UperNet with a narrow head on the embedded scenes of digits.

    Source: our own, as `scenes`.
    Command: a2mamba train scenes_upernet model.backbone_checkpoint=demo/run/checkpoints/best.pt
    Hardware and time: two processes of one thread on two cores, under torchrun, eleven minutes.
    Expected: a mean IoU of about 75 % on the held-out scenes.
    Measured: 76.1 %, the averaged model 75.8 %, on half as many scenes, in 627 s of training.
    """
    run = scenes(root)
    return replace(
        run,
        model=replace(run.model, name="upernet_a2mamba_nano"),
        schedule=replace(run.schedule, iterations=1250, interval=625),
    )


SIZES = ("nano", "tiny", "small", "base", "large")
DATASETS: tuple[Dataset, ...] = ("ade20k", "cityscapes", "coco_stuff")

RECIPES: dict[str, Callable[[], SegmentationRun]] = {
    "scenes": scenes,
    "scenes_upernet": scenes_upernet,
    **{f"upernet_{size}_ade20k": partial(upernet, size) for size in _UPERNET_DROP_PATH},
    **{f"segman_v2_{size}_{dataset}": partial(segman_v2, size, dataset) for size in SIZES for dataset in DATASETS},
    **{f"segman_{size}_{dataset}": partial(segman, size, dataset) for size in SIZES[1:] for dataset in DATASETS},
}


def run_of_model(name: str) -> SegmentationRun:
    """Return a run that looks at images as a network's own recipe does: SegFormer's or Swin's way on ADE20K.

    Raises:
        ValueError: for an unknown name, naming the nearest.
    """
    run = _segformer_protocol(SegmenterConfig(name=name), "ade20k")
    return replace(run, test=TEST_MODES["ade20k_swin"]) if name.startswith("upernet") else run


def debug(run: SegmentationRun) -> SegmentationRun:
    """Return the same run in its debug form: a test network, small crops, four steps; seconds on two cores."""
    # SegMAN has no network for tests: its smallest one, with a narrow decoder.
    name, width = ("segman_tiny", 16) if run.model.name.startswith("segman_") else ("upernet_a2mamba_test", None)
    if run.model.name.startswith("segman_v2"):
        name, width = "segman_v2_test", None
    return replace(
        run,
        model=replace(
            run.model,
            name=name,
            width=width,
            backbone_checkpoint=None,
            checkpoint=None,
            pretrained_backbone=False,
            drop_path_rate=0.0,
        ),
        data=replace(run.data, crop_size=(64, 64), resize=(128, 64), workers=0, batch_size=4),
        schedule=replace(run.schedule, iterations=4, interval=2, warmup_iterations=1),
        test=replace(run.test, stride=run.test.crop, scales=(1.0,)),
        micro_batch=None,
    )


# ----------------------------------------------------------------------------------------------------------- assembly


def build_model(run: SegmentationRun, classes: Sequence[str]) -> Segmenter:
    """Return the model of a run, with the weights that it starts from.

    Raises:
        ValueError: where names or weights do not fit; one line.
    """
    with drawn_from(run.seed):
        return create_segmenter(
            run.model.name,
            num_classes=len(classes),
            checkpoint=run.model.checkpoint,
            backbone_checkpoint=run.model.backbone_checkpoint,
            pretrained_backbone=run.model.pretrained_backbone,
            img_size=run.data.crop_size,
            drop_path_rate=run.model.drop_path_rate,
            width=run.model.width,
        )


def evaluate(
    model: nn.Module,
    run: SegmentationRun,
    loader: Iterable[SegmentationImage],
    metric: MeanIoU,
    *,
    device: torch.device | str,
) -> Iterator[tuple[str, float]]:
    """Yield the results of a metric over the images of ``eval_segmentation_loader``; the model is in eval mode.

    Of several processes each looks at its own images, and all get the results of all.

    Raises:
        ValueError: where an image cannot be decoded, or a label does not fit.
    """
    for image in loader:
        prediction = predict(model, image.image, mode=run.test, mean=run.data.mean, std=run.data.std, device=device)
        metric.update(prediction, image.target)
    merge_metrics([metric])
    yield from metric.results()


def prepare(run: SegmentationRun, *, device: str) -> Prepared:
    """Return what a run trains, on what, and how it is measured; all that can be wrong with the data shows here.

    Raises:
        ValueError: where configuration, data or a checkpoint do not fit; one line.
    """
    classes = segmentation_classes(run.data)
    data = replace(run.data, num_classes=len(classes))  # classes without names are counted in the label files: once
    parts = build_parts(run, classes, device=device)
    if run.class_prior and run.model.checkpoint is None:
        with drawn_from(run.seed):
            parts.model.start_from_shares(class_shares(data, classes=classes))
    shared = plan(run, parts, device=device)
    loader = train_segmentation_loader(
        data,
        seed=run.seed,
        classes=classes,
        samples_per_epoch=run.data.batch_size * run.schedule.interval,
        rank=rank(),
        world_size=world_size(),
        micro_batch=shared.micro_batch,
    )
    held_out = eval_segmentation_loader(data, classes=classes, rank=rank(), world_size=world_size())

    def measure(network: nn.Module) -> Iterator[tuple[str, float]]:
        yield from evaluate(network, run, held_out, MeanIoU(len(classes)), device=device)

    return Prepared(parts, classes, loader, shared.accumulate, measure)


def data_size(run: SegmentationRun) -> DataSize:
    """Return how much there is to train on, or where it is missing what the published data set has."""
    notes: list[str] = []
    try:
        classes = segmentation_classes(run.data)
        samples = len(scan_segmentation(run.data.root, run.data.layout, train_split(run.data)).pairs)
    except ValueError as error:
        samples, count = _PUBLISHED[run.data.layout]
        classes = [str(i) for i in range(run.data.num_classes or count)]
        notes.append(f"{samples:,} images and {len(classes)} classes are assumed: {error}")
    return DataSize(classes, samples, run.schedule.interval, notes)


_PUBLISHED = {"ade20k": (20_210, 150), "cityscapes": (2_975, 19), "coco_stuff": (118_287, 171), "folder": (1_000, 2)}
"""Training images and classes of the data sets, where a run is rehearsed without them."""


def build_parts(
    run: SegmentationRun, classes: Sequence[str], *, device: torch.device | str
) -> Parts[SegmentationTask, Segmenter]:
    """Return model, task and optimizer of a run, the model on its device.

    Raises:
        ValueError: where names, weights or numbers do not fit; one line.
    """
    model = build_model(run, classes).to(device)
    task = SegmentationTask(model, weights={"auxiliary": run.auxiliary_weight}, average=run.average)
    return Parts(task, model, optimizer(run, model), partial(random_batch, run, len(classes)))


def plan(run: SegmentationRun, parts: Parts[SegmentationTask, Segmenter], *, device: torch.device | str) -> BatchPlan:
    """Share the total batch out as `plan_for_device`."""
    return plan_for_device(run, parts, device=device, total=run.data.batch_size)


def samples_on_cpu(run: SegmentationRun) -> int:
    """Return the most samples that a measured step has on a CPU."""
    return 2


def random_batch(run: SegmentationRun, classes: int, size: int) -> SegmentationBatch:
    """A training batch of noise, of the real size: for measuring memory and time without data."""
    height, width = run.data.crop_size
    targets = torch.randint(0, classes, (size, height, width))
    return SegmentationBatch(torch.randn(size, 3, height, width), targets, [f"noise {i}" for i in range(size)])


def optimizer(run: SegmentationRun, model: Segmenter) -> torch.optim.Optimizer:
    """Return the optimizer of a run: the protocols' rules for parameters, by set and not by name.

    All vectors decay in these protocols, biases and norms too, but for the norms of the backbone's branches.
    """
    sets = model.parameter_sets()
    scale = {} if run.decoder_lr_scale == 1 else dict.fromkeys(sets["decoder"], run.decoder_lr_scale)
    return build_optimizer(model, run.optimizer, no_decay=sets["norm_no_decay"], vectors_decay=True, lr_scale=scale)
