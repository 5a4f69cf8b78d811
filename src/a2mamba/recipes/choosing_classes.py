"""Choosing a recipe for images in class folders: a row of `choosing.LAYOUTS`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from a2mamba.data import ClassificationData
from a2mamba.data.class_folders import scan_classes
from a2mamba.recipes.batches import linear_lr
from a2mamba.recipes.choice import Choice, Layout, Wishes
from a2mamba.recipes.image_sizes import middle_short_side
from a2mamba.recipes.own_data import finetune
from a2mamba.tasks import ModelConfig

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation", "test")
_HOLDOUT = 0.2
_STRIDE = 32


def _split(root: Path, names: tuple[str, ...]) -> str | None:
    """The first of the names that is a folder with class folders."""
    return next((name for name in names if (root / name).is_dir() and _has_classes(root / name)), None)


def _has_classes(folder: Path) -> bool:
    return bool(scan_classes(folder).samples)


def is_classification(root: Path) -> bool:
    """Whether a folder has class folders, in splits or by itself."""
    if _split(root, _TRAIN) is not None:
        return True
    # Folders named after splits are no classes: a folder with nothing but val/ is incomplete, not a class "val".
    return not any((root / name).is_dir() for name in (*_TRAIN, *_VAL, *_OTHER)) and _has_classes(root)


_OTHER = ("annotations", "images", "labels", "masks", "leftImg8bit", "gtFine")
"""Folders that say that the images have labels beside them, instead of a class each."""


def choose_classification(root: Path, wishes: Wishes, device: str) -> Choice:
    """A backbone fine-tuned on class folders, its length by the number of images."""
    train, val = _split(root, _TRAIN), _split(root, _VAL)
    tree = scan_classes(root / train if train is not None else root)
    count, classes = len(tree.samples), len(tree.classes)
    where = f"{train}/" if train is not None else "the folder itself"
    reasons = [f"class folders: {count:,} images of {classes} classes in {where}"]
    if train is not None and val is not None:
        holdout = 0.0
        reasons.append(f"evaluation on {val}/")
    else:
        holdout = _HOLDOUT
        reasons.append(f"evaluation on {holdout:.0%} of each class, held out: there is no folder {', '.join(_VAL)}")
    trained_on = round(count * (1 - holdout))
    short = middle_short_side([file for file, _ in tree.samples])
    size = min(max(short // _STRIDE, 1) * _STRIDE, 224)
    reasons.append(f"images of {size} x {size}: the nearest that the images are large enough for, at most 224")
    model = wishes.model
    if model is None:
        model = "a2mamba_nano" if device == "cpu" else "a2mamba_tiny"
        reasons.append(f"{model}: the size for a {'CPU' if device == 'cpu' else 'GPU'}; --model chooses another")
    batch, fitting = _length(trained_on)
    epochs = fitting if wishes.epochs is None else wishes.epochs
    steps = trained_on // batch
    run = finetune(str(root))
    lr = linear_lr(batch, per_1024=run.optimizer.lr * 1024 / run.data.batch_size)
    why = f"about {_TARGET_STEPS:,} steps, 10 to 100 epochs" if wishes.epochs is None else "as asked for"
    reasons.append(f"{epochs} epochs of {steps} steps at batch {batch}: {why}")
    start = _start(wishes)
    if wishes.scratch:
        lr *= _SCRATCH_RATE
    reasons.append(f"{start}; learning rate {lr:.3g}")
    decay = _ema_decay(steps * epochs)
    reasons.append(f"averaged over the last twentieth of the run: EMA decay {decay:.5g}")
    run = replace(
        run,
        model=ModelConfig(
            name=model,
            checkpoint=wishes.checkpoint,
            pretrained=wishes.checkpoint is None and not wishes.scratch,
            drop_path_rate=run.model.drop_path_rate,
        ),
        data=_data(run.data, size=size, batch=batch, train=train, val=val, holdout=holdout),
        optimizer=replace(run.optimizer, lr=lr),
        schedule=replace(run.schedule, epochs=epochs, warmup_epochs=min(max(1, epochs // 15), epochs - 1)),
        ema_decay=decay,
    )
    if run.data.hflip:
        reasons.append("images are mirrored; set data.hflip=0 where a mirrored one means something else")
    return Choice("finetune", run, reasons)


_TARGET_STEPS = 3000
_SCRATCH_RATE = 5.0  # random weights take a larger rate than good ones


def _length(images: int) -> tuple[int, int]:
    """Batch and epochs: at least some 20 steps an epoch where possible, about 3,000 steps in all.

    Raises:
        ValueError: too few images for any batch.
    """
    if images < 4:
        raise ValueError(f"{images} training images are too few; add images")
    batch = next((size for size in (128, 64, 32, 16, 8) if images >= 20 * size), 4)
    return batch, min(max(round(_TARGET_STEPS / (images // batch)), 10), 100)


def _ema_decay(steps: int) -> float:
    """A memory of a twentieth of the run, and of no more than 10,000 steps."""
    return 1 - 1 / min(max(steps / 20, 2), 10_000)


def _start(wishes: Wishes) -> str:
    if wishes.checkpoint is not None:
        return f"begins with {wishes.checkpoint}"
    return "begins with random weights" if wishes.scratch else "begins with the released ImageNet weights"


def _data(
    data: ClassificationData, *, size: int, batch: int, train: str | None, val: str | None, holdout: float
) -> ClassificationData:
    small = size < 224
    return replace(
        data,
        image_size=size,
        # Small images are shown whole: their borders hold more of what they show.
        crop_pct=1.0 if small else data.crop_pct,
        scale=(0.5, 1.0) if small else data.scale,
        batch_size=batch,
        train_split=train,
        val_split=val,
        holdout=holdout,
    )


CLASS_FOLDERS = Layout(
    name="class folders",
    expected="<root>/{train,val}/<class>/<image> or <root>/<class>/<image>",
    recognize=is_classification,
    choose=choose_classification,
)
