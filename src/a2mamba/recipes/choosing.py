"""Choosing a recipe for a folder that nobody has described: what is in it, how much of it, and what fits that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from a2mamba.data import ClassificationData
from a2mamba.data.imagenet import scan_classes, some
from a2mamba.recipes.batches import linear_lr
from a2mamba.recipes.choosing_scenes import ROWS as SCENES
from a2mamba.recipes.classification import ModelConfig
from a2mamba.recipes.own_data import finetune
from a2mamba.recipes.pictures import middle_short_side
from a2mamba.recipes.trained import AnyRun

_TRAIN = ("train", "training")
_VAL = ("val", "valid", "validation", "test")
_HOLDOUT = 0.2
_STRIDE = 32


class Wishes(NamedTuple):
    """What is not to be chosen.

    Args:
        model: the backbone, segmentation network or detector; None: nano on a CPU, tiny elsewhere.
        checkpoint: weights to begin with; None: the released ones, downloaded once.
        scratch: begin with random weights instead.
        epochs: None: by the number of pictures.
    """

    model: str | None = None
    checkpoint: Path | None = None
    scratch: bool = False
    epochs: int | None = None


class Choice(NamedTuple):
    """A recipe for a folder. reasons: one line for each thing that was decided, with why."""

    recipe: str
    run: AnyRun
    reasons: list[str]

    def lines(self) -> list[str]:
        """What was chosen and why, for a person."""
        return [f"recipe {self.recipe}", *(f"  {reason}" for reason in self.reasons)]


class Layout(NamedTuple):
    """A kind of folder that `choose_run` has a recipe for."""

    name: str
    expected: str
    """the shape of its folders, for messages"""
    recognise: Callable[[Path], bool]
    choose: Callable[[Path, Wishes, str], Choice]
    """(folder, wishes, device) -> choice"""


def choose_run(root: Path, wishes: Wishes | None = None, *, device: str) -> Choice:
    """Recognise the layout of a folder and choose a recipe for it, with numbers that fit its size.

    Args:
        root: the data set.
        wishes: what is not to be chosen.
        device: where it will be trained.

    Raises:
        ValueError: the folder does not exist or has no layout that is known here, or its data cannot be trained on.
    """
    if not root.is_dir():
        raise ValueError(f"data folder {root} does not exist or is not a folder; check the path")
    for layout in LAYOUTS:
        if layout.recognise(root):
            return layout.choose(root, wishes or Wishes(), device)
    known = "; ".join(f"{layout.name}: {layout.expected}" for layout in LAYOUTS)
    found = sorted(entry.name for entry in root.iterdir())
    raise ValueError(f"{root} holds {some(found) if found else 'nothing'}, which is no known layout ({known})")


def _split(root: Path, names: tuple[str, ...]) -> str | None:
    """The first of the names that is a folder with class folders."""
    return next((name for name in names if (root / name).is_dir() and _has_classes(root / name)), None)


def _has_classes(folder: Path) -> bool:
    return bool(scan_classes(folder).samples)


def _is_classification(root: Path) -> bool:
    if _split(root, _TRAIN) is not None:
        return True
    # Folders named after splits are no classes: a folder with nothing but val/ is incomplete, not a class "val".
    return not any((root / name).is_dir() for name in (*_TRAIN, *_VAL, *_OTHER)) and _has_classes(root)


_OTHER = ("annotations", "images", "labels", "masks", "leftImg8bit", "gtFine")
"""Folders that say that the pictures have labels beside them, instead of a class each."""


def _choose_classification(root: Path, wishes: Wishes, device: str) -> Choice:
    train, val = _split(root, _TRAIN), _split(root, _VAL)
    tree = scan_classes(root / train if train is not None else root)
    count, classes = len(tree.samples), len(tree.classes)
    where = f"{train}/" if train is not None else "the folder itself"
    reasons = [f"class folders: {count:,} pictures of {classes} classes in {where}"]
    if train is not None and val is not None:
        holdout = 0.0
        reasons.append(f"evaluation on {val}/")
    else:
        holdout = _HOLDOUT
        reasons.append(f"evaluation on {holdout:.0%} of each class, held out: there is no folder {', '.join(_VAL)}")
    trained_on = round(count * (1 - holdout))
    short = middle_short_side([file for file, _ in tree.samples])
    size = min(max(short // _STRIDE, 1) * _STRIDE, 224)
    reasons.append(f"pictures of {size} x {size}: the nearest that the pictures are large enough for, at most 224")
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
        reasons.append("pictures are mirrored; set data.hflip=0 where a mirrored one means something else")
    return Choice("finetune", run, reasons)


_TARGET_STEPS = 3000
_SCRATCH_RATE = 5.0  # random weights take a larger rate than good ones


def _length(pictures: int) -> tuple[int, int]:
    """Batch and epochs: at least some 20 steps an epoch where possible, about 3,000 steps in all.

    Raises:
        ValueError: too few pictures for any batch.
    """
    if pictures < 4:
        raise ValueError(f"{pictures} training pictures are too few; add pictures")
    batch = next((size for size in (128, 64, 32, 16, 8) if pictures >= 20 * size), 4)
    return batch, min(max(round(_TARGET_STEPS / (pictures // batch)), 10), 100)


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
        # Small pictures are shown whole: their borders hold more of what they show.
        crop_pct=1.0 if small else data.crop_pct,
        scale=(0.5, 1.0) if small else data.scale,
        batch_size=batch,
        train_split=train,
        val_split=val,
        holdout=holdout,
    )


LAYOUTS: tuple[Layout, ...] = (
    Layout(
        name="class folders",
        expected="<root>/{train,val}/<class>/<image> or <root>/<class>/<image>",
        recognise=_is_classification,
        choose=_choose_classification,
    ),
    *(Layout(*row) for row in SCENES),
)
