"""Everything that differs between classification, segmentation and detection, as one interface.

A task knows how a run of its kind becomes a network, batches, losses and an optimizer, how a network of its kind is
measured, and what it says about images. Nothing above it asks which task it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import torch
from PIL import Image
from torch import Tensor, nn

from a2mamba.backbone import LoadReport, load_checkpoint
from a2mamba.engine import Loader, TrainingTask
from a2mamba.tasks.batches import BatchPlan, plan_for_device
from a2mamba.tasks.evaluation import Evaluation
from a2mamba.tasks.prediction import Prediction, PredictionOptions, SourceImage
from a2mamba.tasks.run import TrainingRun
from a2mamba.tasks.view import View
from a2mamba.weights import ReleasedWeights

RunT = TypeVar("RunT", bound=TrainingRun)
ModelT = TypeVar("ModelT", bound=nn.Module)


class DataSize(NamedTuple):
    """How much there is to train on; notes: what was assumed where the images are missing."""

    classes: Sequence[str]
    samples: int
    steps_per_epoch: int
    notes: list[str]


class NetworkInput(NamedTuple):
    """The images that a network was trained on: (height, width), and how each channel is normalized from [0, 1]."""

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]
    resize: int | tuple[int, int] | None = None
    """images are resized until their shorter side has so many pixels, or to this height and width, and cropped in the
    middle; None: of any size and shape"""
    interpolation: str = "bilinear"

    def resize_for(self, size: Sequence[int]) -> int | tuple[int, int] | None:
        """Return `resize` in the same proportion for another (height, width)."""
        if self.resize is None:
            return None
        if isinstance(self.resize, int):
            return self.resize * min(size) // min(self.size)
        return self.resize[0] * size[0] // self.size[0], self.resize[1] * size[1] // self.size[1]


@dataclass(frozen=True)
class Parts(Generic[ModelT]):
    """What learns: made of a run and its classes alone, without its images."""

    model: ModelT
    losses: TrainingTask
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class Prepared(Generic[ModelT]):
    """A run with its images: what `recipes.train` joins to the engine."""

    parts: Parts[ModelT]
    classes: Sequence[str]
    """names, in the order of their indices"""
    loader: Loader
    """training batches"""
    accumulate: int
    """batches of the loader per optimizer step, see `plan_batches`"""
    evaluation: Evaluation[Any, Any]
    """the held-out split"""


class Task(ABC, Generic[RunT, ModelT]):
    """One of classification, segmentation, detection; made once, in `a2mamba.tasks`."""

    name: ClassVar[str]
    run_type: type[RunT]
    """the configuration of its runs"""
    evaluation_options: ClassVar[frozenset[str]]
    """what `a2mamba eval` can be asked for, by the names of its options"""
    prediction_options: ClassVar[frozenset[str]]
    """the fields of `PredictionOptions` that have an effect"""
    prediction_type: type[Prediction]
    """what `predict` returns"""
    images_at_a_time: ClassVar[int]
    """images of one forward pass where the caller does not say how many"""

    # ------------------------------------------------------------------------------------------------------- networks

    @abstractmethod
    def networks(self) -> list[str]:
        """Return the names of its networks."""

    @abstractmethod
    def run_of_network(self, name: str) -> RunT:
        """Return a run that looks at images as a network's own recipe does: for weights that bring no run.

        Raises:
            ValueError: for an unknown name, naming the nearest.
        """

    def run_of_released(self, weights: ReleasedWeights) -> tuple[RunT, list[str]]:
        """Return a run that looks at images as released weights want it, and the names of their classes.

        Raises:
            ValueError: the task has no released weights.
        """
        raise ValueError(f"no weights for {self.name} are known to be released")

    @abstractmethod
    def build_model(self, run: RunT, classes: Sequence[str]) -> ModelT:
        """Return the network of a run, with the weights that it starts from, drawn from the run's seed.

        Raises:
            ValueError: where names or weights do not fit; one line.
        """

    @abstractmethod
    def count_classes(self, weights: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes that weights of one of its networks were trained on; None: they do not say."""

    def load_model(
        self, run: RunT, weights: Mapping[str, Any], classes: Sequence[str], *, name: str, device: torch.device | str
    ) -> tuple[ModelT, LoadReport]:
        """Return a run's network in eval mode with all weights from a file's content, and the report of loading them.

        Args:
            run: which network; the weights that it starts from are left out.
            weights: content of a checkpoint, see `a2mamba.load_checkpoint`.
            classes: names of the classes.
            name: of the file, for messages.
            device: where the network is to be.

        Raises:
            ValueError: if the weights do not fit; heads of another number of classes do not either.
        """
        model = self.build_model(replace(run, model=run.model.without_weights()), classes)
        report = load_checkpoint(model, weights, name=name)
        if report.loaded < report.total:
            raise ValueError(f"{name} does not fit these {len(classes)} classes: {'; '.join(report.notes)}")
        return model.eval().to(device), report

    # ------------------------------------------------------------------------------------------------------- training

    @abstractmethod
    def debug(self, run: RunT) -> RunT:
        """Return the same run in its debug form: a test network, small images, few steps; seconds on two cores."""

    @abstractmethod
    def data_size(self, run: RunT) -> DataSize:
        """Return how much there is to train on, or where it is missing what the published data set has."""

    @abstractmethod
    def build_losses(self, run: RunT, model: ModelT, classes: Sequence[str]) -> TrainingTask:
        """Return what a network is trained by."""

    @abstractmethod
    def build_optimizer(self, run: RunT, model: ModelT) -> torch.optim.Optimizer:
        """Return the optimizer of a run over a network's parameters.

        Raises:
            ValueError: where numbers do not fit; one line.
        """

    @abstractmethod
    def noise(self, run: RunT, classes: Sequence[str], size: int) -> Any:
        """Return a training batch of so many random samples of the largest size, to measure memory and time with."""

    @abstractmethod
    def samples_on_cpu(self, run: RunT) -> int:
        """Return the most samples of a step that a dry run makes on a CPU."""

    @abstractmethod
    def prepare(self, run: RunT, *, device: torch.device | str) -> Prepared[ModelT]:
        """Return what a run trains, on what, and how it is measured; all that can be wrong with the data shows here.

        Raises:
            ValueError: where configuration, data or a checkpoint do not fit; one line.
        """

    def build(self, run: RunT, classes: Sequence[str], *, device: torch.device | str) -> Parts[ModelT]:
        """Return network, losses and optimizer of a run, the network on its device.

        Raises:
            ValueError: where names, weights or numbers do not fit; one line.
        """
        model = self.build_model(run, classes).to(device)
        return Parts(model, self.build_losses(run, model, classes), self.build_optimizer(run, model))

    def plan(self, run: RunT, parts: Parts[ModelT], classes: Sequence[str], *, device: torch.device | str) -> BatchPlan:
        """Share the total batch out over processes and passes, see `plan_for_device`.

        Raises:
            ValueError: it cannot be shared out; one line.
        """
        return plan_for_device(
            run, parts.losses, lambda size: self.noise(run, classes, size), total=run.data.batch_size, device=device
        )

    # ----------------------------------------------------------------------------------------------------- evaluation

    @abstractmethod
    def held_out_classes(self, run: RunT) -> list[str]:
        """Return the class names of the held-out split, for weights that name none.

        Raises:
            ValueError: the data is missing or names no classes.
        """

    @abstractmethod
    def evaluation(self, run: RunT, classes: Sequence[str], *, device: torch.device | str) -> Evaluation[RunT, Any]:
        """Return the held-out split of a run, and how a network is measured on it.

        Raises:
            ValueError: the data is missing, or has other classes.
        """

    def with_test_mode(self, run: RunT, name: str | None, *, multi_scale: bool = False) -> RunT:
        """Return a run that looks at images in another way.

        Args:
            run: to change.
            name: of a test mode; None keeps the run's.
            multi_scale: several scales, each with its mirror image.

        Raises:
            ValueError: the task has no test modes, or none of this name.
        """
        if name is not None or multi_scale:
            raise ValueError(f"{self.name} has no test modes")
        return run

    # ----------------------------------------------------------------------------------------------------- prediction

    @abstractmethod
    def transform(self, run: RunT) -> Callable[[Image.Image], Tensor]:
        """Return what makes an image ready for the network: an image -> (C, H, W), float32."""

    @abstractmethod
    def network_input(self, run: RunT) -> NetworkInput:
        """Return the images that a run's network takes, for a file that is exported."""

    def channels(self, run: RunT) -> int:
        """Return the number of channels that images are read with: 1, 3 or 4."""
        return 3

    def palette(self, run: RunT, classes: Sequence[str]) -> Sequence[tuple[int, int, int]]:
        """Return the color of each class, red, green and blue; empty where classes are not told by colors."""
        return ()

    @abstractmethod
    def view(self, run: RunT, model: ModelT, image: Image.Image, *, device: torch.device | str) -> View:
        """Return what a network, in eval mode, sees of an image when it predicts; of several passes, the first."""

    def accelerated(self, model: ModelT, *, compile: bool, graph: Callable[[nn.Module], nn.Module] | None) -> nn.Module:
        """Return what computes the same for `predict` with less overhead, from the same weights; the model stays as is.

        Args:
            model: in eval mode, where it is to compute.
            compile: by torch.compile, when it is first called and again for the first other sizes.
            graph: recorded for each size, by `a2mamba.cuda_graph` or `cpu_graph`; with ``compile``, the former
                of the compiled kernels.

        Raises:
            ValueError: the task's networks cannot be recorded.
        """
        network = cast(nn.Module, torch.compile(model)) if compile else model
        return network if graph is None else graph(network)

    @abstractmethod
    def predict(
        self,
        run: RunT,
        model: nn.Module,
        images: Sequence[SourceImage],
        classes: Sequence[str],
        *,
        options: PredictionOptions,
        device: torch.device | str,
    ) -> Sequence[Prediction]:
        """Return what a network, in eval mode, says about images, looked at together where that changes nothing."""
