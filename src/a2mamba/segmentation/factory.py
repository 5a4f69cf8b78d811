"""Making segmentation networks by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from a2mamba.backbone import create_model, load_checkpoint
from a2mamba.segmentation import segman, segman_v2
from a2mamba.segmentation.segman import MMSCopE
from a2mamba.segmentation.segman_v2 import SegMANV2Decoder
from a2mamba.segmentation.segmenter import Segmenter
from a2mamba.segmentation.uper_net import FCNHead, UperHead

SIZES = ("nano", "tiny", "small", "base", "large", "large_paper")

BACKBONES: dict[str, str] = (
    {name: f"a2mamba_{name.removeprefix('segman_v2_')}" for name in segman_v2.VARIANTS}
    # Table VII measures the Large of the paper's Table I.
    | {"segman_v2_large": "a2mamba_large_paper"}
    | {name: f"segman_encoder_{name.removeprefix('segman_')}" for name in segman.VARIANTS}
    | {f"upernet_a2mamba_{size}": f"a2mamba_{size}" for size in (*SIZES, "test")}
)
"""Name of a segmentation network -> its backbone."""

UPER_WIDTHS = {"upernet_a2mamba_test": 32}
"""Widths of UperNet's decoder other than 512."""


def list_segmenters() -> list[str]:
    """Return the names of all segmentation networks, smallest first within a family."""
    return list(BACKBONES)


def create_segmenter(
    name: str,
    *,
    num_classes: int,
    checkpoint: str | os.PathLike[str] | None = None,
    backbone_checkpoint: str | os.PathLike[str] | None = None,
    pretrained_backbone: bool = False,
    img_size: int | Sequence[int] = 224,
    drop_path_rate: float = 0.0,
    width: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Segmenter:
    """Make a segmentation network.

    Args:
        name: one of :func:`list_segmenters`. ``upernet_a2mamba_large_paper`` is the Large of the paper's Table VI, and
            ``segman_v2_large`` that of Table VII; both have the backbone of its Table I, of which no weights were
            released. ``upernet_a2mamba_large`` has the Large that was released.
        num_classes: of the logits.
        checkpoint: weights of the whole network, see :func:`a2mamba.load_checkpoint`; for ``segman_*`` also those
            that were released.
        backbone_checkpoint: weights of the backbone alone, for training.
        pretrained_backbone: download the released weights of the backbone.
        img_size: side or (height, width) in pixels for which the bias of the encoder's global attention is stored;
            images of any size can be given to the network.
        drop_path_rate: stochastic depth of the backbone's last block.
        width: channels of the decoder, for a narrower or wider one than the system has; its other widths follow in
            proportion. SegMAN-V2 needs a multiple of 32.
        device, dtype: of the parameters; "meta" makes none.

    Returns:
        The network, in training mode; :meth:`Segmenter.forward` says what it computes.

    Raises:
        ValueError: for an unknown name, naming the nearest, or arguments that are out of range or exclude each other.
        WeightsUnavailableError: if ``pretrained_backbone`` weights cannot be downloaded.
        CheckpointError: if a checkpoint does not fit.
    """
    if name not in BACKBONES:
        nearest = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(BACKBONES)}"
        raise ValueError(f"unknown segmentation network {name!r}; {hint}")
    if num_classes < 1 or (width is not None and width < 1):
        raise ValueError(f"num_classes and width must be at least 1, got {num_classes} and {width}")
    if checkpoint is not None and (pretrained_backbone or backbone_checkpoint is not None):
        raise ValueError("checkpoint=... holds the backbone too; give no other weights for it")
    backbone = create_model(
        BACKBONES[name],
        pretrained=pretrained_backbone,
        checkpoint=backbone_checkpoint,
        img_size=img_size,
        drop_path_rate=drop_path_rate,
        features_only=True,
        device=device,
        dtype=dtype,
    )
    with torch.device(device) if device is not None else nullcontext():
        if name in segman_v2.VARIANTS:
            model = _segman_v2(name, backbone, num_classes, width)
        elif name in segman.VARIANTS:
            model = _segman(name, backbone, num_classes, width)
        else:
            model = upernet(backbone, num_classes=num_classes, width=width or UPER_WIDTHS.get(name, 512))
    for _, head in model.heads():
        head.to(dtype=dtype)
    if checkpoint is not None:
        load_checkpoint(model, checkpoint)
    return model


def upernet(
    backbone: nn.Module,
    *,
    num_classes: int,
    width: int = 512,
    auxiliary_width: int | None = None,
    drop_rate: float = 0.1,
) -> Segmenter:
    """Put UperNet's decoder and auxiliary head on any backbone with timm's contract.

    Args:
        backbone: made with ``features_only=True``, offering strides 4, 8, 16 and 32.
        num_classes: of the logits.
        width: channels of the decoder.
        auxiliary_width: channels of the auxiliary head; half of ``width`` if None.
        drop_rate: of both classifiers' dropout.

    Raises:
        ValueError: if the backbone does not offer those strides.
    """
    auxiliary_width = max(1, width // 2) if auxiliary_width is None else auxiliary_width
    return Segmenter(
        backbone,
        partial(UperHead, num_classes=num_classes, width=width, drop_rate=drop_rate),
        partial(FCNHead, num_classes=num_classes, width=auxiliary_width, drop_rate=drop_rate),
    )


def _segman(name: str, backbone: nn.Module, num_classes: int, width: int | None) -> Segmenter:
    config = segman.VARIANTS[name]
    if width is not None:
        config = replace(
            config, width=width, projection_width=_in_proportion(config.projection_width, width, config.width)
        )
    return Segmenter(backbone, partial(MMSCopE, num_classes=num_classes, config=config))


def _segman_v2(name: str, backbone: nn.Module, num_classes: int, width: int | None) -> Segmenter:
    config = segman_v2.VARIANTS[name]
    if width is not None:
        config = replace(
            config,
            width=width,
            projection_width=_in_proportion(config.projection_width, width, config.width),
            low_level_width=_in_proportion(config.low_level_width, width, config.width),
        )
    return Segmenter(backbone, partial(SegMANV2Decoder, num_classes=num_classes, config=config))


def _in_proportion(value: int, width: int, standard: int) -> int:
    """Scale a width as the decoder's is scaled, to a multiple of eight where that leaves any."""
    scaled = value * width / standard
    return max(8, round(scaled / 8) * 8) if scaled >= 8 else max(1, round(scaled))
