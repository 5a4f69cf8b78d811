"""Making variants known by name, to us and to timm: the builder call and the form of a weight record."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from a2mamba.backbone.checkpoint import checkpoint_filter, load_content, read_file
from a2mamba.backbone.options import ClassifierOptions
from a2mamba.backbone.pyramid import Pyramid
from a2mamba.backbone.variant import Variant
from a2mamba.near_names import did_you_mean
from a2mamba.weights import HubFile, WeightsUnavailableError, fetch_weights, find_weights, has_released_weights

PyramidT = TypeVar("PyramidT", bound=Pyramid)

REGISTERED: dict[str, Variant] = {}
"""Every registered backbone, in the order of registration."""

_DEFAULTS = [p.name for p in inspect.signature(build_model_with_cfg).parameters.values() if p.default is not p.empty]
BUILDER_OPTIONS = ("features_only", "out_indices", "feature_cls", "scriptable", *_DEFAULTS)
"""Keywords that timm's builder takes out before the model's own; newer ones have more."""


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
        tagged = f"{name}.in1k" if has_released_weights(name) else name
        configurations = generate_default_cfgs({tagged: _pretrained_cfg(name, variant)})
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


def _pretrained_cfg(name: str, variant: Variant) -> dict[str, Any]:
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
    if has_released_weights(name):
        source = find_weights(name).source
        assert isinstance(source, HubFile), "timm knows those of the hub"
        # The authors state no license for their weights.
        record |= {"hf_hub_id": source.repository, "hf_hub_filename": source.path, "license": "unknown"}
    return record


def _build(
    family: type[PyramidT], name: str, variant: Variant, pretrained: bool, arguments: dict[str, Any]
) -> PyramidT:
    """Build a variant through timm's builder, which wraps feature extractors and loads the weights of folders and hubs.

    Released weights are fetched and loaded as every file of a user's is.

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

    # Folders and repositories of other people's come with a record of their own; a name has a tag at most.
    released = pretrained and isinstance(arguments.get("pretrained_cfg"), str | None)
    released = released and not arguments.get("pretrained_cfg_overlay")
    file = fetch_weights(find_weights(name), hub_cache=arguments.get("cache_dir")) if released else None
    try:
        # Training checkpoints of timm hold their command line as a Namespace, which is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            model = build_model_with_cfg(
                construct,
                name,
                pretrained and not released,
                pretrained_filter_fn=checkpoint_filter,
                feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
                **{key: value for key, value in arguments.items() if key not in sizes},
            )
    except (LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise WeightsUnavailableError(
            f"{name}: the pretrained weights could not be downloaded ({type(error).__name__}); connect to the "
            "internet, or download the file elsewhere and pass its path as checkpoint=..."
        ) from error
    if file is not None:
        load_content(model, read_file(file), str(file))
    return model
