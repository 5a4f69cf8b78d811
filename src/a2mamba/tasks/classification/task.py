"""Image classification, from a run to predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from a2mamba.backbone import Pyramid, check_name, create_model, list_models, load_checkpoint
from a2mamba.data import (
    BatchTransform,
    ClassificationBatch,
    ClassificationData,
    check_batch,
    eval_loader,
    eval_transform,
    open_split,
    split_classes,
    train_loader,
)
from a2mamba.data.classification.datasets.imagenet import IMAGENET
from a2mamba.engine import OptimizerConfig, ScheduleConfig, build_optimizer, rank, seeded_cpu, world_size
from a2mamba.tasks.batches import BatchPlan
from a2mamba.tasks.classification.evaluation import ClassificationEvaluation
from a2mamba.tasks.classification.losses import ClassificationLosses, class_scores
from a2mamba.tasks.classification.prediction import ClassificationPrediction
from a2mamba.tasks.classification.run import ClassificationRun, ModelConfig
from a2mamba.tasks.prediction import PredictionOptions, SourceImage
from a2mamba.tasks.task import DataSize, NetworkInput, Parts, Prepared, Task
from a2mamba.tasks.view import View, view_of_batch
from a2mamba.weights import ReleasedWeights

_IMAGENET_CLASSES, _IMAGENET_IMAGES = 1000, 1_281_167
_CPU_SAMPLES = 8  # of 224 x 224, in a measured step


class ClassificationTask(Task[ClassificationRun, Pyramid]):
    """See `Task`."""

    name = "classification"
    run_type = ClassificationRun
    prediction_type = ClassificationPrediction
    evaluation_options = frozenset({"confusion", "sizes"})
    prediction_options = frozenset({"top"})
    images_at_a_time = 16

    def networks(self) -> list[str]:
        """Return the names of the backbones."""
        return list_models()

    def run_of_network(self, name: str) -> ClassificationRun:
        """Return a run that sees images as timm's record of a backbone says."""
        check_name(name)
        record = timm.get_pretrained_cfg(name)
        assert record is not None, "every backbone is registered"
        return ClassificationRun(
            model=ModelConfig(name=name),
            data=ClassificationData(root="", crop_pct=record.crop_pct, interpolation=record.interpolation),
            optimizer=OptimizerConfig(lr=0.0),
            schedule=ScheduleConfig(epochs=1),
        )

    def run_of_released(self, weights: ReleasedWeights) -> tuple[ClassificationRun, list[str]]:
        """Return the run of the backbone, and ImageNet's names as timm has them."""
        assert weights.dataset == IMAGENET.name
        info = ImageNetInfo()
        return self.run_of_network(weights.name), [info.index_to_description(i) for i in range(weights.classes)]

    def build_model(self, run: ClassificationRun, classes: Sequence[str]) -> Pyramid:
        """Return the backbone of a run with a classifier."""
        with seeded_cpu(run.seed):
            model = create_model(
                run.model.name,
                pretrained=run.model.pretrained and run.model.checkpoint is None,
                num_classes=len(classes),
                in_chans=run.data.in_chans,
                img_size=run.data.image_size,
                drop_rate=run.model.drop_rate,
                **run.model.of_run(),
            )
        if run.model.checkpoint is not None:
            load_checkpoint(model, run.model.checkpoint)
        if run.model.checkpointed_blocks is not None:
            model.set_grad_checkpointing(True, run.model.checkpointed_blocks)
        return model

    def count_classes(self, weights: Mapping[str, Tensor]) -> int | None:
        """Return the rows of the classifier."""
        names = ("head.fc.weight", "classifier.4.weight")
        found = [weights[prefix + name] for prefix in ("", "backbone.") for name in names if prefix + name in weights]
        return found[0].shape[0] if found else None

    def debug(self, run: ClassificationRun) -> ClassificationRun:
        """Return the same run with the test model, small images, two epochs.

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

    def data_size(self, run: ClassificationRun) -> DataSize:
        """Return how much there is to train on, or the numbers of ImageNet-1K."""
        notes: list[str] = []
        try:
            dataset = open_split(run.data, run.data.train_split)
            if run.data.holdout:
                dataset = dataset.part(run.data.holdout, heldout=False)
            classes, samples = dataset.classes, len(dataset)
        except ValueError as error:
            if Path(run.data.root).is_dir():  # what is there is meant, and a run would be refused
                raise
            classes, samples = [str(i) for i in range(_IMAGENET_CLASSES)], _IMAGENET_IMAGES
            notes.append(f"ImageNet-1K's {samples:,} images and {len(classes)} classes are assumed: {error}")
        check_batch(run.data, samples)
        return DataSize(classes, samples, samples // run.data.batch_size, notes)

    def build_losses(self, run: ClassificationRun, model: Pyramid, classes: Sequence[str]) -> ClassificationLosses:
        """Return cross-entropy on mixed images, and MESA."""
        prepare = BatchTransform(
            mixup=run.data.mixup,
            cutmix=run.data.cutmix,
            smoothing=run.label_smoothing,
            erasing=run.data.reprob,
            mean=run.data.mean,
            std=run.data.std,
            classes=len(classes),
        )
        return ClassificationLosses(model, prepare=prepare, mesa_ratio=run.mesa_ratio, mesa_start=run.mesa_start)

    def build_optimizer(self, run: ClassificationRun, model: Pyramid) -> torch.optim.Optimizer:
        """Return the optimizer; what decays is the model's to say."""
        spared = model.no_weight_decay(original=run.original_weight_decay)
        return build_optimizer(model, run.optimizer, no_decay=spared, vectors_decay=run.original_weight_decay)

    def noise(self, run: ClassificationRun, classes: Sequence[str], size: int) -> ClassificationBatch:
        """Return random images of the real size and classes."""
        side = run.data.image_size
        images = torch.randint(0, 256, (size, run.data.in_chans, side, side), dtype=torch.uint8)
        return ClassificationBatch(images, torch.randint(0, len(classes), (size,)), [f"noise {i}" for i in range(size)])

    def samples_on_cpu(self, run: ClassificationRun) -> int:
        """Return as many samples as make the pixels of eight of 224 x 224, and no fewer than eight."""
        return round(max(_CPU_SAMPLES, _CPU_SAMPLES * (224 / run.data.image_size) ** 2))

    def plan(
        self,
        run: ClassificationRun,
        parts: Parts[Pyramid],
        classes: Sequence[str],
        *,
        device: torch.device | str,
    ) -> BatchPlan:
        """Share the total batch out, in even parts where images are mixed in pairs."""
        trial = self.build_losses(replace(run, mesa_start=0), parts.model, classes)
        trial.learn_from(parts.model)  # takes as much memory as the averaged model would
        planned = super().plan(run, replace(parts, losses=trial), classes, device=device)
        if planned.micro_batch % 2 and (run.data.mixup > 0 or run.data.cutmix > 0):
            raise ValueError(
                f"mixup and cutmix need an even number of images in a forward pass, and data.batch_size="
                f"{run.data.batch_size} gives {planned.micro_batch}; change it or micro_batch, or set data.mixup=0 "
                f"data.cutmix=0"
            )
        return planned

    def prepare(self, run: ClassificationRun, *, device: torch.device | str) -> Prepared[Pyramid]:
        """Return what a run trains, on what, and how it is measured."""
        classes = split_classes(run.data, run.data.train_split)
        parts = self.build(run, classes, device=device)
        planned = self.plan(run, parts, classes, device=device)
        loader = train_loader(
            run.data,
            seed=run.seed,
            rank=rank(),
            world_size=world_size(),
            micro_batch=planned.micro_batch,
        )
        return Prepared(parts, classes, loader, planned.accumulate, self.evaluation(run, classes, device=device))

    def held_out_classes(self, run: ClassificationRun) -> list[str]:
        """Return the class names of the evaluation split."""
        return split_classes(run.data, run.data.train_split if run.data.holdout else run.data.val_split)

    def evaluation(
        self, run: ClassificationRun, classes: Sequence[str], *, device: torch.device | str
    ) -> ClassificationEvaluation:
        """Return the evaluation split, its classes compared with those of training."""
        pin_memory = torch.device(device).type == "cuda"
        loader = eval_loader(run.data, classes=classes, rank=rank(), world_size=world_size(), pin_memory=pin_memory)
        return ClassificationEvaluation(run, classes, loader, device)

    def transform(self, run: ClassificationRun) -> Callable[[Image.Image], Tensor]:
        """Return the evaluation transform: an image -> (C, image_size, image_size), normalized."""
        return eval_transform(run.data)

    def network_input(self, run: ClassificationRun) -> NetworkInput:
        """Return the size of training, the run's normalization, and how the evaluation transform resizes."""
        side = run.data.image_size
        scaled = math.floor(side / run.data.crop_pct)
        resize: int | tuple[int, int] | None = (scaled, scaled) if run.data.crop_mode == "squash" else scaled
        if run.data.crop_mode == "border":
            resize = None
        return NetworkInput((side, side), run.data.mean, run.data.std, resize, run.data.interpolation)

    def channels(self, run: ClassificationRun) -> int:
        """Return the run's channels."""
        return run.data.in_chans

    def view(self, run: ClassificationRun, model: nn.Module, image: Image.Image, *, device: torch.device | str) -> View:
        """Return the crop that evaluation looks at."""
        return view_of_batch(self.transform(run)(image)[None].to(device), run.data.mean, run.data.std)

    def predict(
        self,
        run: ClassificationRun,
        model: nn.Module,
        images: Sequence[SourceImage],
        classes: Sequence[str],
        *,
        options: PredictionOptions,
        device: torch.device | str,
    ) -> list[ClassificationPrediction]:
        """Return the probabilities of the classes of each image, from one pass."""
        transform = self.transform(run)
        batch = torch.stack([transform(image.load()) for image in images])
        scores = class_scores(model, batch.to(device)).cpu()
        top = 5 if options.top is None else options.top
        return [ClassificationPrediction(image, classes, each, top) for image, each in zip(images, scores, strict=True)]
