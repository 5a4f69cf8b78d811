"""Detection and instance segmentation, from a run to predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from a2mamba.backbone import load_checkpoint
from a2mamba.data import (
    Category,
    DetectionAnnotations,
    DetectionBatch,
    DetectionData,
    eval_detection_loader,
    read_detection_split,
    train_detection_loader,
)
from a2mamba.detection import Detector, create_detector, detector_config, list_detectors
from a2mamba.engine import OptimizerConfig, StepScheduleConfig, build_optimizer, rank, seeded_cpu, world_size
from a2mamba.tasks.detection.evaluation import DetectionEvaluation
from a2mamba.tasks.detection.losses import DetectionLosses
from a2mamba.tasks.detection.prediction import DetectionPrediction
from a2mamba.tasks.detection.run import DetectionRun, DetectorModelConfig
from a2mamba.tasks.prediction import PredictionOptions, SourceImage
from a2mamba.tasks.task import DataSize, NetworkInput, Prepared, Task
from a2mamba.tasks.view import View, view_of_batch
from a2mamba.visualize import object_color

_COCO_IMAGES, _COCO_CLASSES = 117_266, 80
_OBJECTS = 10  # in an image of noise


class DetectionTask(Task[DetectionRun, Detector]):
    """See `Task`."""

    name = "detection"
    run_type = DetectionRun
    prediction_type = DetectionPrediction
    evaluation_options = frozenset({"save_images", "results", "per_class"})
    prediction_options = frozenset({"min_score"})
    images_at_a_time = 1

    def networks(self) -> list[str]:
        """Return the names of the detectors."""
        return list_detectors()

    def run_of_network(self, name: str) -> DetectionRun:
        """Return a run that sees images as the paper's protocol does."""
        return DetectionRun(
            model=DetectorModelConfig(name=name),
            detector=detector_config(name),
            data=DetectionData(root=""),
            optimizer=OptimizerConfig(lr=0.0),
            schedule=StepScheduleConfig(epochs=1, milestones=()),
        )

    def build_model(self, run: DetectionRun, classes: Sequence[str]) -> Detector:
        """Return the detector of a run, without mask heads where its data has no masks."""
        with seeded_cpu(run.seed):
            model = create_detector(
                run.model.name,
                num_classes=len(classes),
                backbone_checkpoint=run.model.backbone_checkpoint,
                pretrained_backbone=run.model.pretrained_backbone,
                **run.model.of_run(),
                img_size=run.model.stored_size,
                config=run.detector if run.data.masks else replace(run.detector, masks=False),
            )
        if run.model.checkpoint is not None:
            load_checkpoint(model, run.model.checkpoint)
        if run.model.grad_checkpointing:
            model.set_grad_checkpointing()
        return model

    def count_classes(self, weights: Mapping[str, Tensor]) -> int | None:
        """Return the outputs of the first box head but one, the background."""
        name = "roi_heads.stages.0.box_head.class_logits.weight"
        return weights[name].shape[0] - 1 if name in weights else None

    def debug(self, run: DetectionRun) -> DetectionRun:
        """Return the same run with a test detector, small images, two epochs."""
        kind = run.model.name.partition("_a2mamba_")[0]
        name = f"{kind}_a2mamba_test"
        return replace(
            run,
            model=DetectorModelConfig(name=name),
            detector=replace(detector_config(name), output_norms=run.detector.output_norms),
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

    def data_size(self, run: DetectionRun) -> DataSize:
        """Return how much there is to train on, or the numbers of COCO 2017."""
        notes: list[str] = []
        try:
            annotations = read_detection_split(run.data, "train", masks=False)
            samples, classes = len(annotations.image_ids), [category.name for category in annotations.categories]
        except ValueError as error:
            if Path(run.data.root).is_dir():  # what is there is meant, and a run would be refused
                raise
            samples, classes = _COCO_IMAGES, [str(i) for i in range(_COCO_CLASSES)]
            notes.append(f"{samples:,} images and {len(classes)} classes are assumed, as in COCO 2017: {error}")
        return DataSize(classes, samples, max(1, samples // run.data.batch_size), notes)

    def build_losses(self, run: DetectionRun, model: Detector, classes: Sequence[str]) -> DetectionLosses:
        """Return the detector's own losses."""
        return DetectionLosses(model)

    def build_optimizer(self, run: DetectionRun, model: Detector) -> torch.optim.Optimizer:
        """Return the optimizer by the protocol's rules for parameters."""
        return build_optimizer(model, run.optimizer, no_decay=model.no_weight_decay(), vectors_decay=True)

    def noise(self, run: DetectionRun, classes: Sequence[str], size: int) -> DetectionBatch:
        """Return random images of the largest size, ten objects in each."""
        width = run.data.max_size
        height = min(max(run.data.min_sizes), width)
        corner = torch.rand(size, _OBJECTS, 2) * torch.tensor([width, height]) / 2
        boxes = torch.cat((corner, corner + torch.tensor([width, height]) / 4), dim=2)
        targets = []
        for i in range(size):
            target = {"boxes": boxes[i], "labels": torch.randint(1, len(classes) + 1, (_OBJECTS,))}
            if run.data.masks:
                target["masks"] = torch.ones(_OBJECTS, height, width, dtype=torch.uint8)
            targets.append(target)
        images = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in targets]
        return DetectionBatch(images, targets, [f"noise {i}" for i in range(size)])

    def samples_on_cpu(self, run: DetectionRun) -> int:
        """Return one."""
        return 1

    def prepare(self, run: DetectionRun, *, device: torch.device | str) -> Prepared[Detector]:
        """Return what a run trains, on what, and how it is measured."""
        annotations = read_detection_split(run.data, "train")
        classes = [category.name for category in annotations.categories]
        parts = self.build(run, classes, device=device)
        planned = self.plan(run, parts, classes, device=device)
        loader = train_detection_loader(
            run.data,
            annotations=annotations,
            seed=run.seed,
            rank=rank(),
            world_size=world_size(),
            micro_batch=planned.micro_batch,
        )
        # Read here, what is wrong with the evaluation data shows now.
        held_out = read_detection_split(run.data, "val", categories=annotations.categories)
        evaluation = self._evaluation(run, held_out, device)
        return Prepared(parts, classes, loader, planned.accumulate, evaluation)

    def held_out_classes(self, run: DetectionRun) -> list[str]:
        """Return the names of the evaluation file's categories."""
        return [category.name for category in read_detection_split(run.data, "val", masks=False).categories]

    def evaluation(
        self, run: DetectionRun, classes: Sequence[str], *, device: torch.device | str
    ) -> DetectionEvaluation:
        """Return the evaluation split, its categories matched with the classes by name."""
        expected = [Category(number, name) for number, name in enumerate(classes, start=1)]
        return self._evaluation(run, read_detection_split(run.data, "val", categories=expected), device)

    def _evaluation(
        self, run: DetectionRun, annotations: DetectionAnnotations, device: torch.device | str
    ) -> DetectionEvaluation:
        loader = eval_detection_loader(
            run.data,
            annotations=annotations,
            rank=rank(),
            world_size=world_size(),
            pin_memory=torch.device(device).type == "cuda",
        )
        return DetectionEvaluation(run, annotations, loader, device)

    def transform(self, run: DetectionRun) -> Callable[[Image.Image], Tensor]:
        """Return the conversion to floats: an image -> (3, H, W) in [0, 1]; the detector normalizes and resizes."""
        return _floats

    def network_input(self, run: DetectionRun) -> NetworkInput:
        """Return the sides that images are resized to, rounded up as batches are padded, and the normalization."""
        config = run.detector
        sides = [-(-side // config.size_divisor) * config.size_divisor for side in (config.min_size, config.max_size)]
        return NetworkInput((sides[0], sides[1]), config.image_mean, config.image_std)

    def palette(self, run: DetectionRun, classes: Sequence[str]) -> Sequence[tuple[int, int, int]]:
        """Return the colors in which objects are drawn."""
        return [object_color(label) for label in range(1, len(classes) + 1)]

    def view(self, run: DetectionRun, model: Detector, image: Image.Image, *, device: torch.device | str) -> View:
        """Return the image at the size of the protocol, padded on the right and at the bottom."""
        batch, _ = model.preprocess([_floats(image).to(device)], None)
        return view_of_batch(batch.tensors, model.config.image_mean, model.config.image_std)

    def accelerated(
        self, model: Detector, *, compile: bool, graph: Callable[[nn.Module], nn.Module] | None
    ) -> nn.Module:
        """See `Task`; backbone and pyramid are compiled, what follows depends on the objects that are found."""
        if graph is not None:
            raise ValueError(
                "graphs are for classifiers and segmenters: what a detector computes depends on the objects "
                "that it finds; use compile=True"
            )
        if not compile:
            return model
        network = copy(model)
        network.levels = torch.compile(model.levels)  # type: ignore[method-assign]  # of the copy alone
        return network

    def predict(
        self,
        run: DetectionRun,
        model: nn.Module,
        images: Sequence[SourceImage],
        classes: Sequence[str],
        *,
        options: PredictionOptions,
        device: torch.device | str,
    ) -> list[DetectionPrediction]:
        """Return the objects of each image: from one pass where all are of one size, since padding changes features."""
        pixels = [_floats(image.load()).to(device) for image in images]
        batches = [pixels] if len({each.shape for each in pixels}) == 1 else [[each] for each in pixels]
        least = 0.5 if options.min_score is None else options.min_score
        predictions = []
        outputs = [output for batch in batches for output in model(batch, paste=False)]
        for image, each, output in zip(images, pixels, outputs, strict=True):
            kept = {key: value[output["scores"] >= least].cpu() for key, value in output.items()}
            size = (each.shape[1], each.shape[2])
            predictions.append(
                DetectionPrediction(
                    image,
                    classes,
                    kept["boxes"],
                    kept["labels"],
                    kept["scores"],
                    kept.get("masks"),
                    size,
                    run.detector.paste,
                )
            )
        return predictions


def _floats(image: Image.Image) -> Tensor:
    return pil_to_tensor(image).float() / 255
