"""Making models by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any, Literal, overload

import timm
import torch
from timm.models._features import FeatureGetterNet

from a2mamba.backbone import a2mamba, segman
from a2mamba.backbone.checkpoint import load_checkpoint
from a2mamba.backbone.pyramid import Pyramid


def list_models() -> list[str]:
    """Return the names of all backbones, smallest first within a family."""
    return [*a2mamba.VARIANTS, *segman.VARIANTS]


@overload
def create_model(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | Sequence[int] = 224,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    features_only: Literal[False] = False,
    out_indices: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Pyramid: ...


@overload
def create_model(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | Sequence[int] = 224,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    features_only: Literal[True],
    out_indices: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> FeatureGetterNet: ...


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int = 1000,
    in_chans: int = 3,
    img_size: int | Sequence[int] = 224,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Pyramid | FeatureGetterNet:
    """Make a backbone; ``timm.create_model`` gives the same object.

    Args:
        name: one of :func:`list_models`.
        pretrained: download the released weights (once; they are cached).
        checkpoint: file to load instead, see :func:`load_checkpoint`.
        num_classes: 0 for features; the classifier of loaded weights is replaced where the number differs.
        in_chans: channels of the input; loaded weights are adapted.
        img_size: side or (height, width) in pixels for which the global attention's bias is stored; the model takes
            images of any size all the same.
        global_pool: timm pooling type of the head, "" to keep the map.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block.
        features_only: return the maps of the stages, strides 4, 8, 16, 32, instead of logits.
        out_indices: which stages, with ``features_only``; all by default.
        device, dtype: where and in which precision the parameters are made; "meta" makes none.

    Raises:
        ValueError: for an unknown name, naming the nearest, or arguments that exclude each other.
        WeightsUnavailableError: if ``pretrained`` weights cannot be downloaded.
        CheckpointError: if ``checkpoint`` does not fit.
    """
    check_name(name)
    if pretrained and checkpoint is not None:
        raise ValueError("pretrained=True and checkpoint=... exclude each other; give one of them")
    if out_indices is not None and not features_only:
        raise ValueError("out_indices chooses maps of features_only=True; give both")
    options: dict[str, Any] = {"features_only": True} if features_only else {}
    if out_indices is not None:
        options["out_indices"] = tuple(out_indices)
    model = timm.create_model(
        name,
        pretrained=pretrained,
        num_classes=num_classes,
        in_chans=in_chans,
        img_size=img_size,
        global_pool=global_pool,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        device=device,
        dtype=dtype,
        **options,
    )
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    assert isinstance(model, (Pyramid, FeatureGetterNet))
    return model


def check_name(name: str) -> None:
    """Raise ValueError if no backbone has this name, naming the nearest."""
    if name not in list_models():
        nearest = difflib.get_close_matches(name, list_models(), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(list_models())}"
        raise ValueError(f"unknown model {name!r}; {hint}")
