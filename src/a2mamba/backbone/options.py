"""What a network can be asked for: every option is declared here once, with its default and its meaning.

A factory takes ``(name, options)``; :func:`takes` lets it be called with the fields of the options as keywords. Type
checkers and ``help`` see them all, and a new option is one more field here and the code that uses it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
OptionsT = TypeVar("OptionsT")
MadeT = TypeVar("MadeT")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a training run decides of its backbone: runs have these fields too, as ``model.drop_path_rate``."""

    drop_path_rate: float = 0.0
    """stochastic depth of the backbone's last block; it grows linearly from 0 over all blocks"""

    def of_run(self) -> dict[str, Any]:
        """Return the options declared here."""
        return {field.name: getattr(self, field.name) for field in fields(RunOptions)}


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(RunOptions):
    """What every network asks of its backbone.

    Raises:
        ValueError: for a value out of its range.
    """

    in_chans: int = 3
    """channels of the input image; loaded weights of a backbone are adapted"""
    img_size: int | Sequence[int] = 224
    """side or (height, width) in pixels that the bias of the last stage's global attention is stored for; images of any
    size can be given to the network; released weights have 224"""
    device: torch.device | str | None = None
    """where the parameters are made; "meta" makes none"""
    dtype: torch.dtype | None = None
    """of the parameters"""

    def __post_init__(self) -> None:
        size = (self.img_size,) if isinstance(self.img_size, int) else tuple(self.img_size)
        if len(size) not in (1, 2) or min(size) < 1 or (len(size) == 1 and not isinstance(self.img_size, int)):
            raise ValueError(f"img_size must be one positive integer or two, got {self.img_size}")
        if self.in_chans < 1:
            raise ValueError(f"in_chans must be >= 1, got {self.in_chans}")

    def of_backbone(self) -> dict[str, Any]:
        """Return the options declared here, for the network's backbone."""
        return {field.name: getattr(self, field.name) for field in fields(BackboneOptions)}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of ``img_size``."""
        if isinstance(self.img_size, int):
            return self.img_size, self.img_size
        height, width = self.img_size
        return height, width


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(BackboneOptions):
    """What a backbone with its head can be asked for: timm's registry takes these."""

    num_classes: int = 1000
    """0 leaves the classifier out; that of loaded weights is replaced where the number differs"""
    global_pool: str = "avg"
    """timm pooling type of the head, "" to keep the map"""
    drop_rate: float = 0.0
    """dropout before the classifier"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes < 0:
            raise ValueError(f"num_classes must be >= 0, got {self.num_classes}")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ClassifierOptions):
    """What ``create_model`` can be asked for."""

    pretrained: bool = False
    """download the released weights (once; they are cached)"""
    checkpoint: str | os.PathLike[str] | None = None
    """file to load instead, see :func:`a2mamba.load_checkpoint`"""
    features_only: bool = False
    """return the maps of the stages, strides 4, 8, 16, 32, instead of logits"""
    out_indices: Sequence[int] | None = None
    """which stages, with ``features_only``; all by default"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained and self.checkpoint is not None:
            raise ValueError("pretrained=True and checkpoint=... exclude each other; give one of them")
        if self.out_indices is not None and not self.features_only:
            raise ValueError("out_indices chooses maps of features_only=True; give both")

    def of_registry(self) -> dict[str, Any]:
        """Return what timm's registry takes of these."""
        options = {field.name: getattr(self, field.name) for field in fields(ClassifierOptions)}
        if self.features_only:
            options["features_only"] = True
        if self.out_indices is not None:
            options["out_indices"] = tuple(self.out_indices)
        return options


def takes(
    options: Callable[P, OptionsT],
) -> Callable[[Callable[[str, OptionsT], MadeT]], Callable[Concatenate[str, P], MadeT]]:
    """Let a factory that is written for (name, options) be called with the fields of ``options`` as keywords."""

    def decorate(make: Callable[[str, OptionsT], MadeT]) -> Callable[Concatenate[str, P], MadeT]:
        @wraps(make)
        def factory(name: str, *args: P.args, **kwargs: P.kwargs) -> MadeT:
            return make(name, options(*args, **kwargs))

        return _with_signature(factory, make, options)

    return decorate


def _with_signature(factory: Any, make: Callable[..., Any], options: Callable[..., Any]) -> Any:
    """Show the keywords of ``options`` where ``make`` has the options."""
    name = inspect.Parameter("name", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="str")
    returned = inspect.signature(make).return_annotation
    keywords = inspect.signature(options).parameters.values()
    factory.__signature__ = inspect.Signature([name, *keywords], return_annotation=returned)
    return factory
