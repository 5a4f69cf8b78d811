"""ImageNet-1K recipes: training from random weights at 224, and fine-tuning at 384.

The default of each is what the authors' launch scripts run; `paper=True` is what the paper says where the two differ:
300 epochs in all, where the scripts add 10 of cool-down; nano's drop path of 0.05, where its script has none; the
Large of Table I, where the scripts build another. The paper also says that it follows Swin and MLLA, whose warm-up,
batch and rates are not those of the scripts; it names no numbers, so the scripts' stand in both forms.

Rates follow the scripts' linear rule, 1e-3 for 1024 images, except nano's, which its script types out. The authors
draw RandAugment, so that their color-jitter argument is without effect, and it is 0 here.

The batch is the total one: on 8 GPUs `torchrun --nproc-per-node 8 -m a2mamba.cli.main train in1k_tiny data.root=DIR`
gives each 256 images, and a single GPU makes as many passes as its memory asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from a2mamba.data import ClassificationData
from a2mamba.engine import OptimizerConfig, ScheduleConfig
from a2mamba.recipes.batches import linear_lr
from a2mamba.tasks import ClassificationRun, ModelConfig

TOTAL_BATCH = 2048
_384_BATCH = 1024


def in1k_nano(root: str = "data/imagenet", *, paper: bool = False) -> ClassificationRun:
    """Train A2Mamba-N on ImageNet-1K at 224.

    Source: the authors' script; the paper, section 4.1 and Table II. No averaged model, no MESA, mixup of 0.1, twice
    the others' rate.
    Command: a2mamba train in1k_nano data.root=DIR [--paper]
    Hardware and time: the paper's is 8 H800 of 80 GB, 256 images each; their time is not stated.
    Expected: 78.7 % top-1 (Table II). Not measured by us.
    """
    return _in1k(
        "a2mamba_nano",
        root,
        paper=paper,
        drop_path=0.05 if paper else 0.0,
        lr=4e-3,
        mixup=0.1,
        warmup_epochs=5,
        crop_pct=0.9,
    )


def in1k_tiny(root: str = "data/imagenet", *, paper: bool = False) -> ClassificationRun:
    """Train A2Mamba-T on ImageNet-1K at 224.

    Source: the authors' script; the paper, section 4.1 and Table II.
    Command: a2mamba train in1k_tiny data.root=DIR [--paper]
    Hardware and time: the paper's is 8 H800 of 80 GB, 256 images each; their time is not stated.
    Expected: 83.0 % top-1 (Table II), of the averaged model. Not measured by us.
    """
    return _in1k(
        "a2mamba_tiny",
        root,
        paper=paper,
        drop_path=0.1,
        ema_decay=0.99984,
        mesa_ratio=1.0,
        warmup_epochs=5,
        crop_pct=0.9,
    )


def in1k_small(root: str = "data/imagenet", *, paper: bool = False) -> ClassificationRun:
    """Train A2Mamba-S on ImageNet-1K at 224.

    Source: the authors' script; the paper, section 4.1 and Table II.
    Command: a2mamba train in1k_small data.root=DIR [--paper]
    Hardware and time: the paper's is 8 H800 of 80 GB, 256 images each; their time is not stated.
    Expected: 84.7 % top-1 (Table II), of the averaged model. Not measured by us.
    """
    return _in1k(
        "a2mamba_small",
        root,
        paper=paper,
        drop_path=0.2,
        ema_decay=0.9999,
        mesa_ratio=1.0,
        warmup_epochs=5,
        crop_pct=0.9,
    )


def in1k_base(root: str = "data/imagenet", *, paper: bool = False) -> ClassificationRun:
    """Train A2Mamba-B on ImageNet-1K at 224.

    Source: the authors' script; the paper, section 4.1 and Table II.
    Command: a2mamba train in1k_base data.root=DIR [--paper]
    Hardware and time: the paper's is 8 H800 of 80 GB, 256 images each, with the four blocks of stage 1 recomputed;
    their time is not stated.
    Expected: 85.7 % top-1 (Table II), of the averaged model. Not measured by us.
    """
    return _in1k(
        "a2mamba_base",
        root,
        paper=paper,
        drop_path=0.4,
        ema_decay=0.9999,
        mesa_ratio=1.5,
        warmup_epochs=20,
        crop_pct=0.95,
        checkpointed_blocks=(4, 0, 0, 0),
    )


def in1k_large(root: str = "data/imagenet", *, paper: bool = False) -> ClassificationRun:
    """Train A2Mamba-L on ImageNet-1K at 224: a2mamba_large, or with `paper` the Large of Table I.

    Source: the authors' script, which builds the model of their code (Table VIII); the paper, section 4.1 and Table I.
    Command: a2mamba train in1k_large data.root=DIR [--paper]
    Hardware and time: the paper's is 8 H800 of 80 GB, 256 images each, with four blocks of stages 1 and 2 recomputed;
    their time is not stated.
    Expected: 86.2 % top-1 (Table VIII); 86.1 % (Table II) for the Large of Table I. Not measured by us.
    """
    return _in1k(
        "a2mamba_large_paper" if paper else "a2mamba_large",
        root,
        paper=paper,
        drop_path=0.5,
        ema_decay=0.9999,
        mesa_ratio=2.0,
        warmup_epochs=20,
        crop_pct=0.975,
        checkpointed_blocks=(4, 4, 0, 0),
    )


def in1k_384_base(root: str = "data/imagenet") -> ClassificationRun:
    """Fine-tune A2Mamba-B on ImageNet-1K at 384, from its weights at 224.

    Source: the paper, Table III: 30 epochs at 384 from the model of 224. Nothing else is stated, and no script exists;
    every other number is inferred from Swin's recipe for the same step, which the paper cites: batch 1024, 2e-5 for
    512 images, five epochs of warm-up in front of the cosine, weight decay 1e-8, no crop in evaluation. Drop path is
    kept from 224; the averaged model is kept and begins with the loaded weights; MESA is off.
    Command: a2mamba train in1k_384_base data.root=DIR [model.checkpoint=FILE]
    Hardware and time: not stated.
    Expected: 86.4 % top-1 (Table III). Not measured by us.
    """
    return _in1k_384(
        ModelConfig(name="a2mamba_base", pretrained=True, drop_path_rate=0.4, checkpointed_blocks=(4, 0, 0, 0)), root
    )


def in1k_384_large(root: str = "data/imagenet", *, paper: bool = False) -> ClassificationRun:
    """Fine-tune A2Mamba-L on ImageNet-1K at 384: the released weights, or with `paper` the Large of Table I.

    Source: the paper, Table III, whose Large is that of Table I (by its FLOPs). No weights of that one are released,
    so that the paper's form begins with what `a2mamba train in1k_large --paper` made. All numbers but 30 epochs and
    384 are inferred, as for in1k_384_base.
    Command: a2mamba train in1k_384_large data.root=DIR [--paper] [model.checkpoint=FILE]
    Hardware and time: not stated.
    Expected: 86.7 % top-1 (Table III). Not measured by us.
    """
    if paper:
        model = ModelConfig(
            name="a2mamba_large_paper",
            checkpoint=Path("runs/in1k_large/checkpoints/best.pt"),
            drop_path_rate=0.5,
            checkpointed_blocks=(4, 4, 0, 0),
        )
    else:
        model = ModelConfig(name="a2mamba_large", pretrained=True, drop_path_rate=0.5, checkpointed_blocks=(4, 4, 0, 0))
    return _in1k_384(model, root)


def _in1k(
    name: str,
    root: str,
    *,
    paper: bool,
    drop_path: float,
    warmup_epochs: int,
    crop_pct: float,
    lr: float = linear_lr(TOTAL_BATCH),
    mixup: float = 0.8,
    ema_decay: float | None = None,
    mesa_ratio: float = 0.0,
    checkpointed_blocks: tuple[int, ...] | None = None,
) -> ClassificationRun:
    return ClassificationRun(
        model=ModelConfig(name=name, drop_path_rate=drop_path, checkpointed_blocks=checkpointed_blocks),
        data=_imagenet(root, size=224, crop_pct=crop_pct, mixup=mixup, batch_size=TOTAL_BATCH),
        optimizer=OptimizerConfig(lr=lr, weight_decay=0.05, clip_grad_norm=5.0),
        # Moved once an epoch, so that all of the first epoch runs at the rate at which the warm-up begins.
        schedule=ScheduleConfig(
            epochs=300,
            warmup_epochs=warmup_epochs,
            cooldown_epochs=0 if paper else 10,
            warmup_lr=1e-6,
            min_lr=1e-5,
        ),
        label_smoothing=0.1,
        ema_decay=ema_decay,
        mesa_ratio=mesa_ratio,
        mesa_start=75,
        original_weight_decay=True,
    )


def _in1k_384(model: ModelConfig, root: str) -> ClassificationRun:
    """Only 30 epochs and 384 are stated. INFERRED, from Swin's configuration of this step: all the rest."""
    return ClassificationRun(
        model=model,
        data=_imagenet(root, size=384, crop_pct=1.0, mixup=0.8, batch_size=_384_BATCH, crop_mode="squash"),
        optimizer=OptimizerConfig(lr=_per_512(2e-5), weight_decay=1e-8, clip_grad_norm=5.0),
        schedule=ScheduleConfig(
            epochs=30,
            warmup_epochs=5,
            cooldown_epochs=0,
            warmup_lr=_per_512(2e-8),
            min_lr=_per_512(2e-7),
            per_step=True,
            warmup_prefix=True,
        ),
        label_smoothing=0.1,
        ema_decay=0.9999,
        original_weight_decay=True,
    )


def _per_512(rate: float) -> float:
    """Swin states its rates for 512 images."""
    return linear_lr(_384_BATCH, per_1024=2 * rate)


def _imagenet(
    root: str,
    *,
    size: int,
    crop_pct: float,
    mixup: float,
    batch_size: int,
    crop_mode: Literal["center", "squash"] = "center",
) -> ClassificationData:
    return ClassificationData(
        root=root,
        image_size=size,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.0,
        mixup=mixup,
        cutmix=1.0,
        reprob=0.25,
        batch_size=batch_size,
        workers=8,
    )
