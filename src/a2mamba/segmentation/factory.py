"""Making segmentation networks by name."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from a2mamba.backbone import BackboneOptions, create_model, load_checkpoint
from a2mamba.backbone.options import takes
from a2mamba.catalog import SEGMENTERS
from a2mamba.near_names import did_you_mean
from a2mamba.segmentation import segman, segman_v2
from a2mamba.segmentation.segman import MMSCopE
from a2mamba.segmentation.segman_v2 import SegMANV2Decoder
from a2mamba.segmentation.segmenter import Segmenter
from a2mamba.segmentation.uper_net import FCNHead, UperHead
from a2mamba.weights import fetch_weights, find_weights

UNLISTED: dict[str, str] = dict.fromkeys(segman_v2.ROADMAP, "a2mamba_tiny")
"""The same for networks that are made by name alone: steps of the paper's Table XIII."""

UPER_WIDTHS = {"upernet_a2mamba_test": 32}
"""Widths of UperNet's decoder other than 512."""


def list_segmenters() -> list[str]:
    """Return the names of all segmentation networks, smallest first within a family."""
    return list(SEGMENTERS)


def check_segmenter(name: str) -> None:
    """Raise ValueError if no segmentation network has this name, naming the nearest."""
    if name not in SEGMENTERS | UNLISTED:
        hint = did_you_mean(name, SEGMENTERS | UNLISTED, otherwise=f"known: {', '.join(SEGMENTERS)}")
        raise ValueError(f"unknown segmentation network {name!r}; {hint}")


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions(BackboneOptions):
    """What ``create_segmenter`` can be asked for."""

    num_classes: int | None = None
    """of the logits; needed but for ``pretrained`` weights, which bring theirs"""
    pretrained: str | None = None
    """name of the data set whose released weights to download (once; they are cached): "ade20k", "cityscapes" or
    "coco_stuff" for ``segman_*``"""
    checkpoint: str | os.PathLike[str] | None = None
    """weights of the whole network, see :func:`a2mamba.load_checkpoint`; for ``segman_*`` also those that were
    released"""
    backbone_checkpoint: str | os.PathLike[str] | None = None
    """weights of the backbone alone, for training"""
    pretrained_backbone: bool = False
    """download the released weights of the backbone"""
    backbone: str | None = None
    """another backbone than the network's own"""
    width: int | None = None
    """channels of the decoder, for a narrower or wider one than the system has; its other sizes follow in proportion.
    SegMAN-V2 needs a multiple of 32"""
    output_norms: bool = False
    """UperNet: normalize the channels of each of the backbone's maps"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("num_classes", "width"):
            if getattr(self, option) is not None and getattr(self, option) < 1:
                raise ValueError(f"{option} must be at least 1, got {getattr(self, option)}")
        if self.num_classes is None and self.pretrained is None:
            raise ValueError("num_classes is missing; only pretrained=... brings it along")
        whole = self.checkpoint is not None or self.pretrained is not None
        if whole and (self.pretrained_backbone or self.backbone_checkpoint is not None):
            raise ValueError("checkpoint=... or pretrained=... holds the backbone too; give no other weights for it")
        if self.checkpoint is not None and self.pretrained is not None:
            raise ValueError("pretrained=... and checkpoint=... exclude each other; give one of them")


@takes(SegmenterOptions)
def create_segmenter(name: str, options: SegmenterOptions) -> Segmenter:
    """Make a segmentation network.

    Args:
        name: one of :func:`list_segmenters`. ``upernet_a2mamba_large_paper`` is the Large of the paper's Table VI, and
            ``segman_v2_large`` that of Table VII; both have the backbone of its Table I, of which no weights were
            released. ``upernet_a2mamba_large`` has the Large that was released.
        options: the fields of :class:`SegmenterOptions`, each as a keyword: ``num_classes=150``.

    Returns:
        The network, in training mode; :meth:`Segmenter.forward` says what it computes.

    Raises:
        ValueError: for an unknown name, naming the nearest, or options that are out of range or exclude each other.
        WeightsUnavailableError: if weights cannot be downloaded.
        CheckpointError: if a checkpoint does not fit.
    """
    check_segmenter(name)
    released = None if options.pretrained is None else find_weights(name, options.pretrained)
    classes = options.num_classes if released is None else released.classes
    if classes is None or options.num_classes not in (None, classes):
        raise ValueError(
            f"num_classes={options.num_classes}: the weights for {options.pretrained} have {classes} classes; leave "
            "num_classes out, or give their file as backbone_checkpoint=..., of which the backbone is taken"
        )
    if options.output_norms and not name.startswith("upernet"):
        raise ValueError(f"output_norms=True is for UperNet; {name} reads the backbone's maps as they are")
    backbone = create_model(
        options.backbone or (SEGMENTERS | UNLISTED)[name],
        features_only=True,
        pretrained=options.pretrained_backbone,
        checkpoint=options.backbone_checkpoint,
        **options.of_backbone(),
    )
    width = options.width
    with torch.device(options.device) if options.device is not None else nullcontext():
        if name in segman_v2.VARIANTS or name in segman_v2.ROADMAP:
            model = _segman_v2(name, backbone, classes, width)
        elif name in segman.VARIANTS:
            model = _segman(name, backbone, classes, width)
        else:
            width = width or UPER_WIDTHS.get(name, 512)
            model = upernet(backbone, num_classes=classes, width=width, output_norms=options.output_norms)
    for _, head in model.heads():
        head.to(dtype=options.dtype)
    file = fetch_weights(released) if released is not None else options.checkpoint
    if file is not None:
        load_checkpoint(model, file)
    return model


def upernet(
    backbone: nn.Module,
    *,
    num_classes: int,
    width: int = 512,
    auxiliary_width: int | None = None,
    drop_rate: float = 0.1,
    output_norms: bool = False,
) -> Segmenter:
    """Put UperNet's decoder and auxiliary head on any backbone with timm's contract.

    Args:
        backbone: made with ``features_only=True``, offering strides 4, 8, 16 and 32.
        num_classes: of the logits.
        width: channels of the decoder.
        auxiliary_width: channels of the auxiliary head; half of ``width`` if None.
        drop_rate: of both classifiers' dropout.
        output_norms: normalize the channels of each of the backbone's maps.

    Raises:
        ValueError: if the backbone does not offer those strides.
    """
    auxiliary_width = max(1, width // 2) if auxiliary_width is None else auxiliary_width
    return Segmenter(
        backbone,
        partial(UperHead, num_classes=num_classes, width=width, drop_rate=drop_rate),
        partial(FCNHead, num_classes=num_classes, width=auxiliary_width, drop_rate=drop_rate),
        output_norms=output_norms,
    )


def _segman(name: str, backbone: nn.Module, num_classes: int, width: int | None) -> Segmenter:
    config = segman.VARIANTS[name]
    if width is not None:
        config = replace(
            config, width=width, projection_width=_in_proportion(config.projection_width, width, config.width)
        )
    return Segmenter(backbone, partial(MMSCopE, num_classes=num_classes, config=config))


def _segman_v2(name: str, backbone: nn.Module, num_classes: int, width: int | None) -> Segmenter:
    config = (segman_v2.VARIANTS | segman_v2.ROADMAP)[name]
    if width is not None:
        low_level = config.low_level_width
        config = replace(
            config,
            width=width,
            projection_width=_in_proportion(config.projection_width, width, config.width),
            low_level_width=None if low_level is None else _in_proportion(low_level, width, config.width),
        )
    return Segmenter(backbone, partial(SegMANV2Decoder, num_classes=num_classes, config=config))


def _in_proportion(value: int, width: int, standard: int) -> int:
    """Scale a width as the decoder's is scaled, to a multiple of eight where that leaves any."""
    scaled = value * width / standard
    return max(8, round(scaled / 8) * 8) if scaled >= 8 else max(1, round(scaled))
