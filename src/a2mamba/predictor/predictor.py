"""A network with everything that it needs to look at images."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from a2mamba import backbone
from a2mamba.data import UndecodableImageError
from a2mamba.data.images import MAX_PIXELS, image_mode
from a2mamba.engine import PrecisionName, resolve_precision
from a2mamba.engine.device import choose_device
from a2mamba.export import TOLERANCE, Exported, OutputName, export_model, web
from a2mamba.hub import HUB_PREFIX, upload_folder, write_folder
from a2mamba.predictor.loading import class_names, is_exported, load_network
from a2mamba.predictor.predictions import Predictions, UnreadableImagesError
from a2mamba.predictor.sources import ImageLike, image_sources
from a2mamba.recipes import describe
from a2mamba.tasks import (
    AnyRun,
    NetworkInput,
    Prediction,
    PredictionOptions,
    SourceImage,
    View,
    refuse_options,
    task_of,
)


class Predictor:
    """A trained network with everything that it needs to look at images; `load` makes it.

    Args:
        model: in eval mode, on the device.
        run: how the network looks at images.
        classes: their names, in index order.
        device: where the model is.
        report: what was loaded, for people.
        precision: of the forward pass.
        options: see `PredictionOptions`.
        best: "metric", "value" and "epoch" of the run's best weights, where the file says so.
        recipe: that the network was trained by, where the file says so.
        compile: see `load`.
        cuda_graph, cpu_graph: see `load`.

    Raises:
        ValueError: an option that the task does not take, or a graph for another device.
    """

    def __init__(
        self,
        model: nn.Module,
        run: AnyRun,
        classes: Sequence[str],
        *,
        device: str,
        report: str,
        precision: PrecisionName,
        options: PredictionOptions,
        best: Mapping[str, Any] | None = None,
        recipe: str | None = None,
        compile: bool = False,
        cuda_graph: bool = False,
        cpu_graph: bool = False,
    ) -> None:
        self._task = task_of(run)
        refuse_options(options.chosen(), self._task, lambda task: task.prediction_options)
        self.model = model
        self.run = run
        self.classes = list(classes)
        self.device = device
        self.report = report
        self.options = options
        self.best = best
        self.recipe = recipe
        self._precision = resolve_precision(precision, device)
        on = torch.device(device).type
        if cuda_graph and on != "cuda":
            raise ValueError(f"cuda_graph=True is for NVIDIA GPUs, and the network is on {device}; leave it out")
        if cpu_graph and on != "cpu":
            raise ValueError(f"cpu_graph=True is for CPUs, and the network is on {device}; leave it out")
        if cpu_graph and compile:
            raise ValueError("what compile=True makes cannot be recorded on a CPU; leave out it or cpu_graph=True")
        graph = backbone.cuda_graph if cuda_graph else backbone.cpu_graph if cpu_graph else None
        self._network = self._task.accelerated(model, compile=compile, graph=graph)

    @property
    def task(self) -> str:
        """Classification, segmentation or detection."""
        return self._task.name

    @property
    def mode(self) -> str:
        """Pillow's mode of the images that the network looks at: "L", "RGB" or "RGBA"."""
        return image_mode(self._task.channels(self.run))

    @property
    def transform(self) -> Callable[[Image.Image], Tensor]:
        """What makes an image ready for `model`, see `Task.transform`."""
        return self._task.transform(self.run)

    @property
    def network_input(self) -> NetworkInput:
        """The images that the network was trained on, see `Task.network_input`."""
        return self._task.network_input(self.run)

    @property
    def palette(self) -> Sequence[tuple[int, int, int]]:
        """The color of each class; empty for classification."""
        return self._task.palette(self.run, self.classes)

    @property
    def columns(self) -> tuple[str, ...]:
        """Headings of `Prediction.row`."""
        return self._task.prediction_type.columns

    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, batch_size: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> Predictions:
        """Return what the network says about images.

        Args:
            images: a file, a folder (searched through), a glob, an image, uint8 array (H, W, C), uint8 tensor
                (C, H, W), or several of these.
            batch_size: images of one forward pass; None: as the task does by default. What a task looks at alone stays
                alone.
            max_pixels: files of more pixels are refused before they are decoded.

        Raises:
            UnreadableImagesError: some cannot be decoded; its `predictions` are those of the others.
            ValueError: nothing to look at.
        """
        found: list[Prediction] = []
        try:
            found.extend(self.stream(images, batch_size=batch_size, max_pixels=max_pixels))
        except UnreadableImagesError as error:
            error.predictions = Predictions(found, self.describe)
            raise
        return Predictions(found, self.describe)

    def stream(
        self, images: ImageLike | Iterable[ImageLike], *, batch_size: int | None = None, max_pixels: int = MAX_PIXELS
    ) -> Iterator[Prediction]:
        """Yield predictions as they are made; the pixels of an image are let go of after its batch.

        Args:
            images: as `predict`.
            batch_size: as `predict`.
            max_pixels: as `predict`.

        Raises:
            UnreadableImagesError: after all others, where some cannot be decoded.
            ValueError: nothing to look at.
        """
        size = self._task.images_at_a_time if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        failures: list[UndecodableImageError] = []
        batch: list[SourceImage] = []
        asked = 0
        for source in image_sources(images, mode=self.mode, max_pixels=max_pixels):
            asked += 1
            try:
                source.load()
            except UndecodableImageError as error:
                failures.append(error)
                continue
            batch.append(source)
            if len(batch) == size:
                yield from self._look_at(batch)
                batch = []
        if batch:
            yield from self._look_at(batch)
        if not asked:
            raise ValueError("no images to look at; expected at least one")
        if failures:
            raise UnreadableImagesError(failures, asked)

    def export(
        self,
        path: Path | str,
        *,
        format: str | None = None,
        size: tuple[int, int] | None = None,
        output: OutputName | None = None,
        pixels: bool = False,
        images: ImageLike | Iterable[ImageLike] = (),
        tolerance: float = TOLERANCE,
    ) -> Exported:
        """Write the network as a file for another runtime, and keep it if it computes the same.

        Args:
            path: the file.
            format: "onnx", "pt2" or "openvino"; None: by the path's suffix.
            size: height and width that the file is for; None: those of training.
            output: "logits", "class_map" (segmentation), "features" or "detections"; None: what the task predicts with.
            pixels: the file takes uint8 (B, H, W, C) and normalizes it, instead of normalized float32 (B, C, H, W).
            images: to compare on, beside random ones; they are squashed to the size.
            tolerance: largest difference, see `a2mamba.export.export_model`.

        Raises:
            ValueError: a network, size, format or output that does not fit.
            ImportError: the format needs a package that is not installed.
            a2mamba.export.ExportError: the file computes something else; it is not kept.
        """
        trained = self.network_input
        height, width = size = trained.size if size is None else size
        compared = []
        for source in image_sources(images, mode=self.mode, max_pixels=MAX_PIXELS):
            image = source.load().resize((width, height), Image.Resampling.BILINEAR)
            compared.append(np.asarray(image).reshape(height, width, -1))
        return export_model(
            self.model,
            path,
            size=size,
            mean=trained.mean,
            std=trained.std,
            classes=self.classes,
            format=format,
            output=output,
            pixels=pixels,
            images=compared,
            tolerance=tolerance,
            about={
                "model": self.run.model.name,
                "task": self.task,
                "weights": self.report,
                "best": self.best,
                "run": json.loads(describe(self.run, "", self.classes)),
            },
        )

    def save_pretrained(self, folder: Path | str, *, license: str | None = None) -> Path:
        """Write the network as a folder: model.safetensors, config.json, and a model card, README.md.

        `load` reads it again; a classifier's is read by timm ("local-dir:FOLDER") and transformers too. It holds no
        code, and no path of this machine.

        Args:
            folder: is made.
            license: of the weights, as the hub writes it ("apache-2.0"); None: the card says that none is stated.

        Raises:
            ValueError: a fused network; a license that is no identifier.
        """
        return write_folder(
            folder, self.model, self.run, self.classes, recipe=self.recipe, best=self.best, license=license
        )

    def push_to_hub(
        self, repository: str, *, private: bool = False, license: str | None = None, token: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; return the address.

        Args:
            repository: "user/name"; it is made where there is none.
            private: for one that is made.
            license: as in `save_pretrained`.
            token: of the hub; None: that of `hf auth login`.
        """
        with tempfile.TemporaryDirectory() as folder:
            return upload_folder(
                self.save_pretrained(folder, license=license), repository, private=private, token=token
            )

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: str = "auto") -> Predictor:
        """Do what `load` does for a saved folder, or for a repository of the hub, "user/name"."""
        return load(source if Path(source).is_dir() else f"{HUB_PREFIX}{source}", device=device)

    def view(self, image: ImageLike, *, max_pixels: int = MAX_PIXELS) -> View:
        """Return what the network sees of one image: what `a2mamba.explain` takes, and the same for people.

        Args:
            image: as `predict`, one.
            max_pixels: as `predict`.

        Raises:
            UndecodableImageError: it cannot be read.
            ValueError: not one image.
        """
        sources = list(image_sources(image, mode=self.mode, max_pixels=max_pixels))
        if len(sources) != 1:
            raise ValueError(f"{len(sources)} images: expected one")
        return self._task.view(self.run, self.model, sources[0].load(), device=self.device)

    def export_page(
        self,
        folder: Path | str,
        *,
        size: tuple[int, int] | None = None,
        images: ImageLike | Iterable[ImageLike] = (),
        tolerance: float = TOLERANCE,
        runtime: Path | str | None = None,
    ) -> Exported:
        """Write a static page that runs the network in its visitor's browser; the file is compared as by `export`.

        Args:
            folder: of the page; what it holds stays there.
            size: as `export`.
            images: as `export`.
            tolerance: as `export`.
            runtime: a folder of onnxruntime-web, or its .tgz; None: downloaded once, 33 MB, and kept.

        Raises:
            ValueError: a network that a page cannot show, or as `export`.
            OSError: onnxruntime-web cannot be downloaded.
        """
        trained = self.network_input
        web.check_page(self.task, channels=len(trained.mean), interpolation=trained.interpolation)
        files = web.find_runtime(None if runtime is None else Path(runtime))
        exported = self.export(
            Path(folder) / web.MODEL, size=size, output=web.TASKS[self.task], images=images, tolerance=tolerance
        )
        web.write_page(
            Path(folder),
            exported.description,
            runtime=files,
            resize=trained.resize_for(exported.description["size"]),
            interpolation=trained.interpolation,
            palette=self.palette,
        )
        return exported

    def describe(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what predictions.json holds: the model's name, what was loaded, and an entry for each image."""
        return {"model": self.run.model.name, "weights": self.report, "predictions": entries}

    def _look_at(self, batch: Sequence[SourceImage]) -> Iterator[Prediction]:
        with torch.inference_mode(), self._precision.autocast():
            predictions = self._task.predict(
                self.run, self._network, batch, self.classes, options=self.options, device=self.device
            )
        yield from predictions
        for image in batch:
            image.release()

    def __repr__(self) -> str:
        return f"Predictor({self.run.model.name}, {self.task}, {len(self.classes)} classes, {self.device})"


def load(
    source: str | Path,
    *,
    name: str | None = None,
    pretrained: str | None = None,
    classes: Sequence[str] | Path | None = None,
    device: str = "auto",
    precision: PrecisionName = "float32",
    top: int | None = None,
    min_score: float | None = None,
    test_mode: str | None = None,
    compile: bool = False,
    cuda_graph: bool = False,
    cpu_graph: bool = False,
) -> Predictor:
    """Return a predictor for a file of weights, of any task.

    Args:
        source: a training checkpoint of ours, which says everything itself; a file of weights alone, released or
            saved, with ``name``; a folder of `Predictor.save_pretrained`, or one on the hub, as "hf-hub:user/name"; the
            name of a network whose weights are released, which are downloaded once; or an .onnx or .xml file that
            `Predictor.export` wrote, run on the CPU by its runtime.
        name: of the network, where the file does not say.
        pretrained: name of the data set whose released weights are meant, where ``source`` is a network that has
            several: "ade20k", "cityscapes" or "coco_stuff" for ``segman_*``.
        classes: names in index order, or a file of them, one a line; by default those of the file, or numbers.
        device: "cpu", "cuda", ...; "auto" is a GPU where there is one.
        precision: of the forward pass.
        top: classification: how many classes a prediction names; None: 5.
        min_score: detection: lowest score of an object that is kept; None: 0.5.
        test_mode: segmentation: how images are looked at, one of `a2mamba.segmentation.TEST_MODES`; None: as the file
            or the network's protocol says.
        compile: predict by torch.compile. The first call takes a minute or more, as do the next few of other sizes,
            after which sizes are free. Of detectors, backbone and pyramid are compiled. `Predictor.model` stays as is.
        cuda_graph: predict by CUDA graphs, which spare a GPU the wait for Python where batches are small. One is
            recorded for each size, and eight are kept: for images of few sizes. Not for detectors.
        cpu_graph: the same on a CPU, where Python is up to half of the time of one small image; see
            `a2mamba.cpu_graph`. Not for detectors, nor with ``compile``.

    Raises:
        ValueError: a file that is missing, damaged, does not say what it holds or holds something else; names of
            another number of classes; an option that the task, the file or the device does not take; a device that does
            not exist.
        WeightsUnavailableError: released weights cannot be downloaded.
    """
    options = PredictionOptions(top=top, min_score=min_score, test_mode=test_mode)
    elsewhere = device not in ("auto", "cpu") or precision != "float32" or compile or cuda_graph or cpu_graph
    if is_exported(Path(source)) and (name is not None or elsewhere):
        raise ValueError(
            f"{source} is an exported file: it says its name itself, and runs on the CPU in float32 by its own runtime"
        )
    found = load_network(source, name=name, pretrained=pretrained, device=choose_device(device))
    return Predictor(
        found.model,
        found.run,
        class_names(classes, found.classes),
        device=found.device,
        report=found.report,
        precision=precision,
        options=options,
        best=found.best,
        recipe=found.recipe,
        compile=compile,
        cuda_graph=cuda_graph,
        cpu_graph=cpu_graph,
    )
