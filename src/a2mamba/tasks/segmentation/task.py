"""Semantic segmentation, from a run to predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import pil_to_tensor

from a2mamba.backbone import LoadReport, weights_of
from a2mamba.data import (
    SEGMENTATION_DATASETS,
    SegmentationBatch,
    SegmentationData,
    class_shares,
    eval_segmentation_loader,
    normalize,
    normalize_crops,
    scan_segmentation,
    segmentation_classes,
    segmentation_palette,
    train_segmentation_loader,
    train_split,
)
from a2mamba.engine import OptimizerConfig, PolynomialScheduleConfig, build_optimizer, rank, seeded_cpu, world_size
from a2mamba.segmentation import TEST_MODES, Segmenter, create_segmenter, list_segmenters, predict
from a2mamba.segmentation.inference import SCALES, find_test_mode, network_inputs
from a2mamba.tasks.prediction import PredictionOptions, SourceImage
from a2mamba.tasks.segmentation.evaluation import SegmentationEvaluation
from a2mamba.tasks.segmentation.losses import SegmentationLosses
from a2mamba.tasks.segmentation.prediction import SegmentationPrediction
from a2mamba.tasks.segmentation.run import SegmentationRun, SegmenterConfig
from a2mamba.tasks.task import DataSize, NetworkInput, Prepared, Task
from a2mamba.tasks.view import View, view_of_batch
from a2mamba.weights import ReleasedWeights

_GLOBAL_BIASES = ("global_attention.bias", "token_mixer.rpb.1")
"""Ends of names of the global attention's bias (heads, tokens, tokens): ours, and SegMAN's released one."""
_LAST_STRIDE = 32

_FOLDER = 1_000, 2
"""Images and classes of a folder of one's own, for a dry run without it."""


class SegmentationTask(Task[SegmentationRun, Segmenter]):
    """See `Task`."""

    name = "segmentation"
    run_type = SegmentationRun
    prediction_type = SegmentationPrediction
    evaluation_options = frozenset({"confusion", "test_mode", "ms", "save_images", "per_class"})
    prediction_options = frozenset({"test_mode"})
    images_at_a_time = 1

    def networks(self) -> list[str]:
        """Return the names of the segmentation networks."""
        return list_segmenters()

    def run_of_network(self, name: str) -> SegmentationRun:
        """Return a run that sees images as SegFormer's or, for UperNet, Swin's protocol does on ADE20K."""
        return SegmentationRun(
            model=SegmenterConfig(name=name),
            data=SegmentationData(root=""),
            optimizer=OptimizerConfig(lr=0.0),
            schedule=PolynomialScheduleConfig(iterations=1, interval=1),
            test=TEST_MODES["ade20k_swin" if name.startswith("upernet") else "ade20k"],
        )

    def run_of_released(self, weights: ReleasedWeights) -> tuple[SegmentationRun, list[str]]:
        """Return a run by the protocol of the weights' data set, and the names of its classes."""
        dataset = SEGMENTATION_DATASETS[weights.dataset]
        protocol, run = dataset.protocol, self.run_of_network(weights.name)
        crop = (protocol.crop, protocol.crop)
        run = replace(
            run,
            data=replace(run.data, layout=dataset.name, crop_size=crop, resize=protocol.resize),
            test=find_test_mode(weights.test_mode or protocol.test_mode),
        )
        return run, list(dataset.classes)

    def build_model(self, run: SegmentationRun, classes: Sequence[str]) -> Segmenter:
        """Return the segmentation network of a run."""
        with seeded_cpu(run.seed):
            return create_segmenter(
                run.model.name,
                num_classes=len(classes),
                checkpoint=run.model.checkpoint,
                backbone_checkpoint=run.model.backbone_checkpoint,
                pretrained_backbone=run.model.pretrained_backbone,
                img_size=run.model.stored_size or run.data.crop_size,
                **run.model.of_run(),
                backbone=run.model.backbone,
                output_norms=run.model.output_norms,
                width=run.model.width,
            )

    def load_model(
        self,
        run: SegmentationRun,
        weights: Mapping[str, Any],
        classes: Sequence[str],
        *,
        name: str,
        device: torch.device | str,
    ) -> tuple[Segmenter, LoadReport]:
        """Do what `Task.load_model` does; the network keeps the biases of global attention in the size of the file.

        Resized to that of the run's crops, and then to an image's, they would be other than resized once.
        """
        bias = next((x for key, x in weights_of(weights).items() if key.endswith(_GLOBAL_BIASES)), None)
        if bias is not None and bias.dim() > 1:
            side = round(bias.shape[-1] ** 0.5) * _LAST_STRIDE
            height, width = run.model.stored_size or run.data.crop_size
            own = -(-height // _LAST_STRIDE) * -(-width // _LAST_STRIDE)
            if bias.shape[-1] != own and (side // _LAST_STRIDE) ** 2 == bias.shape[-1]:
                run = replace(run, model=replace(run.model, stored_size=(side, side)))
        return super().load_model(run, weights, classes, name=name, device=device)

    def count_classes(self, weights: Mapping[str, Tensor]) -> int | None:
        """Return the outputs of the decoder's classifier, by our name or the released one."""
        names = ("decoder.classifier.conv.weight", "decode_head.conv_seg.weight")
        return next((weights[name].shape[0] for name in names if name in weights), None)

    def debug(self, run: SegmentationRun) -> SegmentationRun:
        """Return the same run with a test network, small crops, four steps."""
        # SegMAN has no network for tests: its smallest one, with a narrow decoder.
        name, width = ("segman_tiny", 16) if run.model.name.startswith("segman_") else ("upernet_a2mamba_test", None)
        if run.model.name.startswith("segman_v2"):
            name, width = "segman_v2_test", None
        return replace(
            run,
            model=replace(run.model.without_weights(), name=name, backbone=None, width=width, drop_path_rate=0.0),
            data=replace(run.data, crop_size=(64, 64), resize=(128, 64), workers=0, batch_size=4),
            schedule=replace(run.schedule, iterations=4, interval=2, warmup_iterations=1),
            test=replace(run.test, stride=run.test.crop, scales=(1.0,)),
            micro_batch=None,
        )

    def data_size(self, run: SegmentationRun) -> DataSize:
        """Return how much there is to train on, or the numbers of the published data set."""
        notes: list[str] = []
        try:
            classes = segmentation_classes(run.data)
            samples = len(scan_segmentation(run.data.root, run.data.layout, train_split(run.data)).pairs)
        except ValueError as error:
            if Path(run.data.root).is_dir():  # what is there is meant, and a run would be refused
                raise
            dataset = SEGMENTATION_DATASETS.get(run.data.layout)
            samples, count = _FOLDER if dataset is None else (dataset.images[0], len(dataset.classes))
            classes = [str(i) for i in range(run.data.num_classes or count)]
            notes.append(f"{samples:,} images and {len(classes)} classes are assumed: {error}")
        return DataSize(classes, samples, run.schedule.interval, notes)

    def build_losses(self, run: SegmentationRun, model: Segmenter, classes: Sequence[str]) -> SegmentationLosses:
        """Return the cross-entropy of every head."""
        prepare = partial(normalize_crops, mean=run.data.mean, std=run.data.std, channels_last=run.channels_last)
        weights = {"auxiliary": run.auxiliary_weight}
        return SegmentationLosses(model, prepare=prepare, weights=weights, average=run.average)

    def build_optimizer(self, run: SegmentationRun, model: Segmenter) -> torch.optim.Optimizer:
        """Return the optimizer by the protocols' rules for parameters, by set and not by name.

        All vectors decay in these protocols, biases and norms too, but for the norms of the backbone's branches.
        """
        sets = model.parameter_sets()
        scale = {} if run.decoder_lr_scale == 1 else dict.fromkeys(sets["decoder"], run.decoder_lr_scale)
        return build_optimizer(model, run.optimizer, no_decay=sets["norm_no_decay"], vectors_decay=True, lr_scale=scale)

    def noise(self, run: SegmentationRun, classes: Sequence[str], size: int) -> SegmentationBatch:
        """Return random crops of the real size and classes."""
        height, width = run.data.crop_size
        images = torch.randint(0, 256, (size, 3, height, width), dtype=torch.uint8)
        targets = torch.randint(0, len(classes), (size, height, width), dtype=torch.uint8)
        return SegmentationBatch(images, targets, [f"noise {i}" for i in range(size)])

    def samples_on_cpu(self, run: SegmentationRun) -> int:
        """Return two."""
        return 2

    def prepare(self, run: SegmentationRun, *, device: torch.device | str) -> Prepared[Segmenter]:
        """Return what a run trains, on what, and how it is measured."""
        classes = segmentation_classes(run.data)
        data = replace(run.data, num_classes=len(classes))  # classes without names are counted in the label files: once
        parts = self.build(run, classes, device=device)
        if run.class_prior and run.model.checkpoint is None:
            with seeded_cpu(run.seed):
                parts.model.start_from_shares(class_shares(data, classes=classes))
        planned = self.plan(run, parts, classes, device=device)
        loader = train_segmentation_loader(
            data,
            seed=run.seed,
            classes=classes,
            samples_per_epoch=run.data.batch_size * run.schedule.interval,
            rank=rank(),
            world_size=world_size(),
            micro_batch=planned.micro_batch,
        )
        evaluation = self.evaluation(replace(run, data=data), classes, device=device)
        return Prepared(parts, classes, loader, planned.accumulate, evaluation)

    def held_out_classes(self, run: SegmentationRun) -> list[str]:
        """Return the class names of the data set."""
        return segmentation_classes(run.data)

    def evaluation(
        self, run: SegmentationRun, classes: Sequence[str], *, device: torch.device | str
    ) -> SegmentationEvaluation:
        """Return the evaluation split, its classes compared with those of training."""
        loader = eval_segmentation_loader(
            run.data,
            classes=classes,
            rank=rank(),
            world_size=world_size(),
            pin_memory=torch.device(device).type == "cuda",
        )
        return SegmentationEvaluation(run, classes, loader, device)

    def with_test_mode(self, run: SegmentationRun, name: str | None, *, multi_scale: bool = False) -> SegmentationRun:
        """Return a run with another test mode, or with six scales, each with its mirror image."""
        mode = run.test if name is None else find_test_mode(name)
        return replace(run, test=replace(mode, scales=SCALES, flip=True) if multi_scale else mode)

    def transform(self, run: SegmentationRun) -> Callable[[Image.Image], Tensor]:
        """Return the normalization: an image -> (3, H, W) at its own size; `predict` resizes as the test mode says."""
        return partial(_normalized, mean=run.data.mean, std=run.data.std)

    def network_input(self, run: SegmentationRun) -> NetworkInput:
        """Return the size of training, and the run's normalization."""
        return NetworkInput(run.data.crop_size, run.data.mean, run.data.std)

    def palette(self, run: SegmentationRun, classes: Sequence[str]) -> Sequence[tuple[int, int, int]]:
        """Return the data set's colors, or made ones."""
        return segmentation_palette(run.data.layout, len(classes))

    def view(self, run: SegmentationRun, model: nn.Module, image: Image.Image, *, device: torch.device | str) -> View:
        """Return the whole image at the first size of the test mode, also where that looks through windows."""
        mean, std = run.data.mean, run.data.std
        return view_of_batch(next(network_inputs(pil_to_tensor(image).to(device), run.test, mean, std)), mean, std)

    def accelerated(
        self, model: Segmenter, *, compile: bool, graph: Callable[[nn.Module], nn.Module] | None
    ) -> nn.Module:
        """See `Task`; what is recorded are the logits at the decoder's stride, which test modes ask for."""
        network = super().accelerated(model, compile=compile, graph=None)
        return network if graph is None else _FromGraphs(graph(_AtOwnStride(network)))

    def predict(
        self,
        run: SegmentationRun,
        model: nn.Module,
        images: Sequence[SourceImage],
        classes: Sequence[str],
        *,
        options: PredictionOptions,
        device: torch.device | str,
    ) -> list[SegmentationPrediction]:
        """Return the map of each image, looked at alone: the test mode resizes each by its own size."""
        run = self.with_test_mode(run, options.test_mode)
        palette, predictions = self.palette(run, classes), []
        for image in images:
            pixels = pil_to_tensor(image.load())
            found = predict(model, pixels, mode=run.test, mean=run.data.mean, std=run.data.std, device=device)
            predictions.append(SegmentationPrediction(image, classes, found.to(torch.uint8), palette))
        return predictions


class _AtOwnStride(nn.Module):
    """A segmenter as a function of its images alone."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.training = segmenter.training

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes, h, w)."""
        logits: Tensor = self.segmenter(images, native_resolution=True)
        return logits


class _FromGraphs(nn.Module):
    """A segmenter as test modes call it, which replays graphs."""

    def __init__(self, graphs: nn.Module) -> None:
        super().__init__()
        self.graphs = graphs
        self.training = graphs.training

    def forward(self, images: Tensor, *, native_resolution: bool) -> Tensor:
        """(B, 3, H, W) -> logits (B, classes, h, w)."""
        assert native_resolution, "larger logits are not recorded"
        logits: Tensor = self.graphs(images)
        return logits


def _normalized(image: Image.Image, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return normalize(pil_to_tensor(image), mean=mean, std=std)
