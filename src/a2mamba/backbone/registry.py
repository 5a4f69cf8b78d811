"""What the variants share in timm's registry: the builder call and the form of a weight record."""

from __future__ import annotations

import argparse
import difflib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg

from a2mamba.backbone.checkpoint import checkpoint_filter
from a2mamba.backbone.pyramid import Pyramid

PyramidT = TypeVar("PyramidT", bound=Pyramid)

BUILDER_OPTIONS = (
    "cache_dir",
    "features_only",
    "out_indices",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "scriptable",
)
"""Keywords that timm's builder takes out before the model's own."""


class WeightsUnavailableError(RuntimeError):
    """Pretrained weights could not be downloaded."""


def pretrained_cfg(*, crop_pct: float, hub: tuple[str, str] | None) -> dict[str, Any]:
    """Return timm's record of preprocessing and, where released, of weights (hub repository, file name)."""
    record: dict[str, Any] = {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2507.16624",
    }
    if hub is not None:
        repository, filename = hub
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


def build(
    model: type[PyramidT], name: str, pretrained: bool, variant: dict[str, Any], arguments: dict[str, Any]
) -> PyramidT:
    """Build a variant through timm's builder, which loads weights and wraps feature extractors.

    Raises:
        ValueError: for an unknown keyword, naming the nearest valid one.
        WeightsUnavailableError: if weights are asked for and cannot be downloaded.
    """
    known = [p for p in inspect.signature(model).parameters if p != "self"] + list(BUILDER_OPTIONS)
    for key in arguments:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]!r}?" if nearest else f"valid options: {', '.join(sorted(known))}"
            raise ValueError(f"{name}: unknown option {key!r}; {hint}")
    try:
        # Training checkpoints of timm hold their command line as a Namespace, which is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]), _quiet_hub():
            return build_model_with_cfg(
                model,
                name,
                pretrained,
                pretrained_filter_fn=checkpoint_filter,
                feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
                **{**variant, **arguments},
            )
    except (LocalEntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, ConnectionError) as error:
        raise WeightsUnavailableError(
            f"{name}: the pretrained weights could not be downloaded ({type(error).__name__}); connect to the "
            "internet, or download the file elsewhere and pass its path as checkpoint=..."
        ) from error
