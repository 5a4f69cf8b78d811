"""Making backbones by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, Protocol, overload

import timm
from timm.models._features import FeatureGetterNet

from a2mamba.backbone.checkpoint import load_checkpoint
from a2mamba.backbone.options import ModelOptions, takes
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.registry import REGISTERED
from a2mamba.near_names import did_you_mean

P = ParamSpec("P")
Q = ParamSpec("Q")


@dataclass(frozen=True, kw_only=True)
class _LogitsOptions(ModelOptions):
    """Those that make a network of logits."""

    features_only: Literal[False] = False


@dataclass(frozen=True, kw_only=True)
class _MapsOptions(ModelOptions):
    """Those that make a network of maps."""

    features_only: Literal[True]


class _CreateModel(Protocol[P, Q]):
    """The type of ``create_model``: what it returns depends on ``features_only``."""

    @overload
    def __call__(self, name: str, *args: P.args, **kwargs: P.kwargs) -> Pyramid: ...
    @overload
    def __call__(self, name: str, *args: Q.args, **kwargs: Q.kwargs) -> FeatureGetterNet: ...


def _takes_model_options(
    logits: Callable[P, _LogitsOptions], maps: Callable[Q, _MapsOptions]
) -> Callable[[Callable[[str, ModelOptions], Pyramid | FeatureGetterNet]], _CreateModel[P, Q]]:
    """Do the same as :func:`takes`; for type checkers, each kind of options has its own result."""

    def decorate(make: Callable[[str, ModelOptions], Pyramid | FeatureGetterNet]) -> _CreateModel[P, Q]:
        made: Any = takes(ModelOptions)(make)
        return made

    return decorate


def list_models() -> list[str]:
    """Return the names of all backbones, smallest first within a family."""
    return [name for name, variant in REGISTERED.items() if variant.listed]


@_takes_model_options(_LogitsOptions, _MapsOptions)
def create_model(name: str, options: ModelOptions) -> Pyramid | FeatureGetterNet:
    """Make a backbone; ``timm.create_model`` gives the same object.

    Args:
        name: one of :func:`list_models`.
        options: the fields of :class:`~a2mamba.backbone.options.ModelOptions`, each as a keyword: ``num_classes=10``.

    Returns:
        (B, in_chans, S, S') -> logits (B, num_classes), for any S and S'; with ``features_only=True`` the list of maps.

    Raises:
        ValueError: for an unknown name, naming the nearest, or options out of range or that exclude each other.
        WeightsUnavailableError: if ``pretrained`` weights cannot be downloaded.
        CheckpointError: if ``checkpoint`` does not fit.
    """
    check_name(name)
    model = timm.create_model(name, pretrained=options.pretrained, **options.of_registry())
    if options.checkpoint is not None:
        load_checkpoint(model, options.checkpoint)
    assert isinstance(model, (Pyramid, FeatureGetterNet))
    return model


def check_name(name: str) -> None:
    """Raise ValueError if no backbone has this name, naming the nearest."""
    if name not in REGISTERED:
        raise ValueError(f"unknown model {name!r}; {did_you_mean(name, REGISTERED)}")
