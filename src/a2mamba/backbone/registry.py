"""Making variants known by name, to us and to timm: the builder call and the form of a weight record."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from a2mamba.backbone.checkpoint import checkpoint_filter
from a2mamba.backbone.options import ClassifierOptions
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.variant import Variant
from a2mamba.near_names import did_you_mean

PyramidT = TypeVar("PyramidT", bound=Pyramid)

REGISTERED: dict[str, Variant] = {}
"""Every registered backbone, in the order of registration."""

_DEFAULTS = [p.name for p in inspect.signature(build_model_with_cfg).parameters.values() if p.default is not p.empty]
BUILDER_OPTIONS = ("features_only", "out_indices", "feature_cls", "scriptable", *_DEFAULTS)
"""Keywords that timm's builder takes out before the model's own; newer ones have more."""


class WeightsUnavailableError(OSError):
    """Pretrained weights could not be downloaded."""


def register(family: type[Pyramid], variants: Mapping[str, Variant]) -> None:
    """Make backbones known by their names, to ``a2mamba.create_model`` and to timm.

    The module of ``family`` gets a function of each name and timm's ``default_cfgs``, as timm's own model files have.

    Raises:
        ValueError: for a name that is taken.
    """
    module = sys.modules[family.__module__]
    for name, variant in variants.items():
        if name in REGISTERED:
            raise ValueError(f"a backbone called {name!r} exists; choose another name")
        REGISTERED[name] = variant
        entry = _entry(family, name, variant)
        setattr(module, name, entry)
        tagged = name if variant.weights is None else f"{name}.in1k"
        configurations = generate_default_cfgs({tagged: _pretrained_cfg(variant)})
        module.__dict__.setdefault("default_cfgs", {}).update(configurations)
        register_model(entry)


def _entry(family: type[PyramidT], name: str, variant: Variant) -> Callable[..., PyramidT]:
    """Return the function that timm calls to make a backbone."""

    def entry(pretrained: bool = False, **kwargs: Any) -> PyramidT:
        return _build(family, name, variant, pretrained, kwargs)

    entry.__name__ = entry.__qualname__ = name
    entry.__module__ = family.__module__
    entry.__doc__ = (
        f"Make the {family.__name__} called {name}: timm's entry; a2mamba.create_model documents the options."
    )
    return entry


def _pretrained_cfg(variant: Variant) -> dict[str, Any]:
    """Return timm's record of preprocessing and, where released, of weights."""
    record: dict[str, Any] = {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": variant.crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2507.16624",
    }
    if variant.weights is not None:
        repository, filename = variant.weights
        # The authors state no license for their weights.
        record |= {"hf_hub_id": repository, "hf_hub_filename": filename, "license": "unknown"}
    return record


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the hub's remarks on its retries to itself: what it comes to is one error, which we translate."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _build(
    family: type[PyramidT], name: str, variant: Variant, pretrained: bool, arguments: dict[str, Any]
) -> PyramidT:
    """Build a variant through timm's builder, which loads weights and wraps feature extractors.

    Raises:
        TypeError: for an unknown keyword, naming the nearest valid one.
        WeightsUnavailableError: if weights are asked for and cannot be downloaded.
    """
    sizes = {field.name for field in fields(Variant)}
    known = [*sizes, *(field.name for field in fields(ClassifierOptions)), *BUILDER_OPTIONS]
    for key in arguments:
        if key not in known:
            hint = did_you_mean(key, known, otherwise=f"valid options: {', '.join(sorted(known))}")
            raise TypeError(f"{name}: unknown option {key!r}; {hint}")
    design = replace(variant, **{key: value for key, value in arguments.items() if key in sizes})

    def construct(**options: Any) -> PyramidT:
        return family(design, ClassifierOptions(**options))

    try:
        # Training checkpoints of timm hold their command line as a Namespace, which is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]), _quiet_hub():
            return build_model_with_cfg(
                construct,
                name,
                pretrained,
                pretrained_filter_fn=checkpoint_filter,
                feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
                **{key: value for key, value in arguments.items() if key not in sizes},
            )
    except (LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise WeightsUnavailableError(
            f"{name}: the pretrained weights could not be downloaded ({type(error).__name__}); connect to the "
            "internet, or download the file elsewhere and pass its path as checkpoint=..."
        ) from error
