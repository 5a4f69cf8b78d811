"""Making detectors by name."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch

from a2mamba.backbone import BackboneOptions, create_model, load_checkpoint
from a2mamba.backbone.options import takes
from a2mamba.catalog import DETECTORS
from a2mamba.detection.config import DetectorConfig
from a2mamba.detection.detector import Detector
from a2mamba.near_names import did_you_mean

KINDS = {"mask_rcnn": DetectorConfig.mask_rcnn, "cascade_mask_rcnn": DetectorConfig.cascade_mask_rcnn}
TEST = "a2mamba_test"


def list_detectors() -> list[str]:
    """Return the names of all detectors; the large ones of the paper's Tables IV and V end in ``large_paper``."""
    return list(DETECTORS)


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


@dataclass(frozen=True, kw_only=True)
class DetectorOptions(BackboneOptions):
    """What ``create_detector`` can be asked for."""

    num_classes: int
    """without the background"""
    backbone_checkpoint: str | os.PathLike[str] | None = None
    """weights of the backbone, or of a classifier on it"""
    pretrained_backbone: bool = False
    """download the released weights of the backbone"""
    config: DetectorConfig | None = None
    """numbers of the detector; those of the name by default (:func:`detector_config`)"""
    masks: bool | None = None
    """False: boxes alone, without mask heads; by default as ``config`` says"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained_backbone and self.backbone_checkpoint is not None:
            raise ValueError(
                "pretrained_backbone=True and backbone_checkpoint=... exclude each other; give one of them"
            )


@takes(DetectorOptions)
def create_detector(name: str, options: DetectorOptions) -> Detector:
    """Make a detector on an A2Mamba backbone, which has no classifier.

    Args:
        name: one of :func:`list_detectors`.
        options: the fields of :class:`DetectorOptions`, each as a keyword: ``num_classes=80``.

    Returns:
        The detector, in training mode; :meth:`Detector.forward` says what it computes.

    Raises:
        ValueError: for an unknown name, naming the nearest, or options out of range or that exclude each other.
        WeightsUnavailableError: if ``pretrained_backbone`` weights cannot be downloaded.
        CheckpointError: if ``backbone_checkpoint`` does not fit.
    """
    config = options.config or detector_config(name)
    if options.masks is not None:
        config = replace(config, masks=options.masks)
    if len(config.image_mean) != options.in_chans:
        raise ValueError(
            f"in_chans={options.in_chans}, and image_mean={config.image_mean} in the detector's config: expected a "
            "mean and a std for each channel"
        )
    backbone = create_model(_parts(name)[1], pretrained=options.pretrained_backbone, **options.of_backbone())
    backbone.prune_intermediate_layers(len(backbone.stages), prune_head=True)
    if options.backbone_checkpoint is not None:
        load_checkpoint(backbone, options.backbone_checkpoint)
    with torch.device(options.device if options.device is not None else torch.get_default_device()):
        detector = Detector(backbone, num_classes=options.num_classes, config=config)
    return detector if options.dtype is None else detector.to(options.dtype)


def _parts(name: str) -> tuple[str, str]:
    """Return kind and backbone of a detector's name."""
    if name not in list_detectors():
        raise ValueError(f"unknown detector {name!r}; {did_you_mean(name, DETECTORS)}")
    kind, _, backbone = name.partition("_a2mamba_")
    return kind, f"a2mamba_{backbone}"
