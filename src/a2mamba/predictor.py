"""From a file of weights to predictions, whatever the task.

    predictor = a2mamba.load("best.pt")
    predictor.predict("photos").save("out")

Images are streamed: none is held for longer than its batch.
"""

from __future__ import annotations

import glob
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from a2mamba.backbone import read_file, weights_of
from a2mamba.data import IMAGE_EXTENSIONS, UndecodableImageError, decode_image
from a2mamba.data.images import MAX_PIXELS, image_mode, upright
from a2mamba.data.text import read_lines
from a2mamba.engine import PrecisionName, resolve_precision
from a2mamba.engine.device import choose_device
from a2mamba.export import SUFFIXES, TOLERANCE, Exported, OutputName, export_model, open_exported, read_sidecar, web
from a2mamba.files import replace_text
from a2mamba.hub import HUB_PREFIX, download_folder, is_saved_folder, read_folder, upload_folder, write_folder
from a2mamba.recipes import describe, parse_run, read_checkpoint
from a2mamba.tasks import (
    TASKS,
    AnyRun,
    NetworkInput,
    Prediction,
    PredictionOptions,
    SourceImage,
    View,
    refuse_options,
    task_of,
    task_of_network,
)
from a2mamba.weights import fetch_weights, find_weights

ImageLike = str | Path | Image.Image | np.ndarray | Tensor
"""A file, folder or glob; an image; uint8 (H, W, C) or (H, W); uint8 (C, H, W)"""

_SHOWN = 8  # drawings that a notebook shows of a list


class UnreadableImagesError(ValueError):
    """Some images could not be read; all others were predicted.

    Args:
        failures: one error for each, which names it.
        asked: number of images that were asked about.

    Attributes:
        predictions: those of the others, where `Predictor.predict` made a list of them.
    """

    def __init__(self, failures: Sequence[UndecodableImageError], asked: int) -> None:
        each = "; ".join(f"{error.path}: {error.reason}" for error in failures)
        several = f"{len(failures)} of {asked} images cannot be decoded: {each}; replace or remove the files"
        super().__init__(str(failures[0]) if len(failures) == 1 else several)
        self.failures = list(failures)
        self.predictions: Predictions | None = None


class Predictions(list[Prediction]):
    """Predictions in the order of their images.

    Args:
        predictions: of one predictor.
        describe: makes of their entries what predictions.json holds.
    """

    def __init__(
        self, predictions: Iterable[Prediction], describe: Callable[[list[dict[str, Any]]], dict[str, Any]]
    ) -> None:
        super().__init__(predictions)
        self._describe = describe

    def to_dict(self) -> dict[str, Any]:
        """Return model, weights and predictions as plain types."""
        return self._describe([prediction.to_dict() for prediction in self])

    def save(self, folder: Path | str) -> Path:
        """Write the drawings of all and predictions.json, which names them; return that file."""
        return save_index(folder, self._describe([prediction.save(folder) for prediction in self]))

    def _repr_png_(self) -> bytes | None:
        """Let notebooks show the first drawings, one below the other."""
        if not self:
            return None
        drawings = [prediction.drawing().convert("RGB") for prediction in self[:_SHOWN]]
        canvas = Image.new(
            "RGB", (max(each.width for each in drawings), sum(each.height for each in drawings)), "white"
        )
        top = 0
        for drawing in drawings:
            canvas.paste(drawing, (0, top))
            top += drawing.height
        buffer = io.BytesIO()
        canvas.save(buffer, format="PNG")
        return buffer.getvalue()


def save_index(folder: Path | str, content: dict[str, Any]) -> Path:
    """Write predictions.json into a folder, whole or not at all."""
    path = Path(folder) / "predictions.json"
    replace_text(path, json.dumps(content, indent=2))
    return path


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

    Raises:
        ValueError: an option that the task does not take.
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
        for source in self._sources(images, max_pixels):
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
        for source in self._sources(images, MAX_PIXELS):
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
        sources = list(self._sources(image, max_pixels))
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
                self.run, self.model, batch, self.classes, options=self.options, device=self.device
            )
        yield from predictions
        for image in batch:
            image.release()

    def _sources(self, images: ImageLike | Iterable[ImageLike], max_pixels: int) -> Iterator[SourceImage]:
        for number, image in enumerate(_each(images)):
            if isinstance(image, Path):
                read = partial(decode_image, image, mode=self.mode, max_pixels=max_pixels)
                yield SourceImage(str(image), number, read)
            else:
                yield SourceImage(f"image-{number}", number, partial(_converted, image, self.mode))

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

    Raises:
        ValueError: a file that is missing, damaged, does not say what it holds or holds something else; names of
            another number of classes; an option that the task does not take; a device that does not exist.
        WeightsUnavailableError: released weights cannot be downloaded.
    """
    options = PredictionOptions(top=top, min_score=min_score, test_mode=test_mode)
    place, path = choose_device(device), _place(source)
    if path.is_dir() and not is_saved_folder(path):
        raise ValueError(f"{source} is a folder; give a checkpoint file, such as checkpoints/best.pt in a run's folder")
    released = name is None and not path.exists() and str(source) in _networks()
    if pretrained is not None and not released:
        raise ValueError(
            f"pretrained={pretrained!r} is for the name of a network, and {source} is none: a2mamba models"
        )
    if released:
        found = _released(str(source), pretrained, place)
    elif path.suffix in SUFFIXES:
        if name is not None or device not in ("auto", "cpu") or precision != "float32":
            raise ValueError(f"{source} is an exported file: it says its name itself, and runs on the CPU in float32")
        place, found = "cpu", _exported(path)
    else:
        if name is not None:
            task_of_network(name)  # says which one is nearest
        found = _stored(path, name, place)
    return Predictor(
        found.model,
        found.run,
        _names(classes, found.classes),
        device=place,
        report=found.report,
        precision=precision,
        options=options,
        best=found.best,
        recipe=found.recipe,
    )


def _networks() -> list[str]:
    return [network for task in TASKS.values() for network in task.networks()]


def _place(source: str | Path) -> Path:
    """Where a source is on this machine."""
    word = str(source)
    return download_folder(word.removeprefix(HUB_PREFIX)) if word.startswith(HUB_PREFIX) else Path(source)


class _Loaded(NamedTuple):
    model: nn.Module
    run: AnyRun
    classes: list[str]
    report: str
    best: Mapping[str, Any] | None = None
    recipe: str | None = None


def _released(name: str, dataset: str | None, device: str) -> _Loaded:
    """A network with the weights that were released of it."""
    weights = find_weights(name, dataset)
    task = task_of_network(name)
    run, classes = task.run_of_released(weights)
    path = fetch_weights(weights)
    model, report = task.load_model(run, read_file(path), classes, name=str(path), device=device)
    return _Loaded(model, run, classes, f"{report}; released for {weights.dataset}, {weights.license}")


def _exported(path: Path) -> _Loaded:
    """The file itself in the network's place."""
    sidecar = read_sidecar(path)
    trained = parse_run(sidecar.run, str(path.with_suffix(".json")))
    return _Loaded(open_exported(path, sidecar), trained.run, trained.classes, f"{sidecar.format} file", sidecar.best)


def _stored(path: Path, name: str | None, device: str) -> _Loaded:
    """The network in a file, which says what it is, or has to be of this name."""
    content, trained = read_folder(path) if path.is_dir() else read_checkpoint(path)
    if trained is not None:
        run, classes = trained.run, trained.classes
        if name not in (None, run.model.name):
            raise ValueError(
                f"{path} holds {run.model.name}, not {name}; leave the name out, or use: a2mamba predict "
                f"{run.model.name} ..."
            )
        task = task_of(run)
    elif name is None:
        raise ValueError(f"{path} does not say which network it holds; give its name, one of: a2mamba models")
    else:
        task = task_of_network(name)
        run, count = task.run_of_network(name), task.count_classes(weights_of(content))
        if count is None:
            raise ValueError(f"{path} has no classifier of a network for {task.name}; train one on it first")
        classes = _numbers(count)
    model, report = task.load_model(run, content, classes, name=str(path), device=device)
    best, recipe = (None, None) if trained is None else (content.get("best"), trained.recipe or None)
    return _Loaded(model, run, classes, str(report), best, recipe)


def find_images(word: str | Path) -> list[Path]:
    """Return the image files that a word means: a file, the images in a folder and below, or a glob.

    Raises:
        ValueError: a folder without images, or a glob that nothing matches.
    """
    path = Path(word)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_EXTENSIONS and file.is_file())
        if not files:
            raise ValueError(f"folder {path} has no images; expected files that end in {', '.join(IMAGE_EXTENSIONS)}")
        return files
    if not path.exists() and glob.has_magic(str(word)):
        files = [Path(file) for file in sorted(glob.glob(str(word), recursive=True)) if Path(file).is_file()]
        if not files:
            raise ValueError(f"no file matches {word}")
        return files
    return [path]


def _each(images: ImageLike | Iterable[ImageLike]) -> Iterator[Path | Image.Image | np.ndarray | Tensor]:
    """Single images of whatever was given."""
    if isinstance(images, str | Path):
        yield from find_images(images)
    elif isinstance(images, Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim <= 3):
        yield images
    else:
        for image in images:
            yield from _each(image)


def _converted(image: Image.Image | np.ndarray | Tensor, mode: str) -> Image.Image:
    if not isinstance(image, Image.Image):
        if image.dtype not in (np.uint8, torch.uint8) or image.ndim not in (2, 3) or 0 in image.shape:
            raise ValueError(
                f"an image of {image.dtype} {tuple(image.shape)}: expected uint8, arrays (height, width, channels), "
                f"tensors (channels, height, width)"
            )
        pixels = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) and image.ndim == 3 else image
        values = np.asarray(pixels)
        image = Image.fromarray(values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values)
    if image.mode[0] in "IF":
        raise ValueError(f"an image of mode {image.mode}: expected 8 bits a channel; convert it")
    return upright(image).convert(mode)


def _numbers(count: int) -> list[str]:
    return [f"class {i}" for i in range(count)]


def _names(given: Sequence[str] | Path | None, own: list[str]) -> list[str]:
    """The names that were given, or the file's own."""
    if given is None:
        return own
    names = read_lines(given) if isinstance(given, Path) else list(given)
    if len(names) != len(own):
        what = str(given) if isinstance(given, Path) else "classes="
        raise ValueError(f"{what} names {len(names)} classes, the model has {len(own)}")
    return names
