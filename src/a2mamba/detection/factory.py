"""Making detectors by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from a2mamba.backbone import create_model, list_models, load_checkpoint
from a2mamba.detection.config import DetectorConfig
from a2mamba.detection.detector import Detector

KINDS = {"mask_rcnn": DetectorConfig.mask_rcnn, "cascade_mask_rcnn": DetectorConfig.cascade_mask_rcnn}
TEST = "a2mamba_test"


def list_detectors() -> list[str]:
    """Return the names of all detectors; the large ones of the paper's Tables IV and V end in ``large_paper``."""
    backbones = [name for name in list_models() if name.startswith("a2mamba_")]
    return [f"{kind}_{backbone}" for kind in KINDS for backbone in backbones]


def detector_config(name: str) -> DetectorConfig:
    """Return the numbers that :func:`create_detector` uses for a name.

    Raises:
        ValueError: for an unknown name, naming the nearest.
    """
    kind, backbone = _parts(name)
    config = KINDS[kind]()
    if backbone != TEST:
        return config
    config = config.narrowed(fpn_width=16, box_fc_width=32)
    return replace(config, min_size=128, max_size=256, roi=replace(config.roi, mask_convs=1))


def create_detector(
    name: str,
    *,
    num_classes: int,
    backbone_checkpoint: str | os.PathLike[str] | None = None,
    pretrained_backbone: bool = False,
    drop_path_rate: float = 0.0,
    img_size: int | Sequence[int] = 224,
    config: DetectorConfig | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Detector:
    """Make a detector on an A2Mamba backbone, which has no classifier.

    Args:
        name: one of :func:`list_detectors`.
        num_classes: number of classes without the background; labels are 1 to ``num_classes``.
        backbone_checkpoint: weights for the backbone, see :func:`a2mamba.load_checkpoint`.
        pretrained_backbone: download the released weights for the backbone.
        drop_path_rate: stochastic depth of the backbone's last block.
        img_size: side or (height, width) in pixels for which the bias of the backbone's global attention is stored; it
            is resized to whatever comes. Released weights have 224.
        config: numbers of the detector; those of the name by default (:func:`detector_config`).
        device, dtype: where and in which precision the parameters are made; "meta" makes none.

    Raises:
        ValueError: for an unknown name, naming the nearest, or arguments that exclude each other.
        WeightsUnavailableError: if ``pretrained_backbone`` weights cannot be downloaded.
        CheckpointError: if ``backbone_checkpoint`` does not fit.
    """
    standard = detector_config(name)
    if pretrained_backbone and backbone_checkpoint is not None:
        raise ValueError("pretrained_backbone=True and backbone_checkpoint=... exclude each other; give one of them")
    backbone = create_model(
        _parts(name)[1],
        pretrained=pretrained_backbone,
        img_size=img_size,
        drop_path_rate=drop_path_rate,
        device=device,
        dtype=dtype,
    )
    backbone.prune_intermediate_layers(len(backbone.stages), prune_head=True)
    if backbone_checkpoint is not None:
        load_checkpoint(backbone, backbone_checkpoint)
    with torch.device(device if device is not None else torch.get_default_device()):
        detector = Detector(backbone, num_classes=num_classes, config=config or standard)
    return detector if dtype is None else detector.to(dtype)


def _parts(name: str) -> tuple[str, str]:
    """Return kind and backbone of a detector's name."""
    if name not in list_detectors():
        nearest = difflib.get_close_matches(name, list_detectors(), n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(list_detectors())}"
        raise ValueError(f"unknown detector {name!r}; {hint}")
    kind, _, backbone = name.partition("_a2mamba_")
    return kind, f"a2mamba_{backbone}"
