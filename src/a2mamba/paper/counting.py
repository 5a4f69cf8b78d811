"""Parameters and multiply-accumulates of what a row is about, counted on the meta device: nothing is computed."""

from __future__ import annotations

from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from a2mamba.analysis import flops, parameters
from a2mamba.backbone import Pyramid, create_model
from a2mamba.detection import Detector, DummyForward, create_detector
from a2mamba.detection.factory import KINDS
from a2mamba.layers import LASS, MASS
from a2mamba.paper.subjects import Subject
from a2mamba.segmentation import create_segmenter
from a2mamba.segmentation.factory import upernet

Size = tuple[int, int]


@cache
def build(subject: Subject, size: Size | None = None) -> nn.Module:
    """Return the network of a row without values, in eval mode, with the classes of ImageNet-1K, ADE20K or COCO.

    Args:
        subject: what the row is about.
        size: of the images, for the models of timm that are made for one.
    """
    name, _, backbone = subject.model.partition(" on ")
    if not subject.ours:
        return _of_timm(name, backbone, size).eval()
    if subject.task == "segmentation":
        return create_segmenter(name, num_classes=150, backbone=backbone or None, device="meta").eval()
    if subject.task == "detection":
        return create_detector(name, num_classes=80, device="meta").eval()
    return create_model(name, device="meta").eval()


def _of_timm(name: str, backbone: str, size: Size | None) -> nn.Module:
    """A classifier of timm, or a system of ours on one of its backbones, for images of a size."""
    options: dict[str, Any] = {} if size is None else {"img_size": size}
    with torch.device("meta"):
        if not backbone:
            return timm.create_model(name, **options)
        maps = timm.create_model(backbone, features_only=True, **options)
        if name == "upernet":
            return upernet(maps, num_classes=150)
        return Detector(maps, num_classes=80, config=KINDS[name]())


def count_parameters(subject: Subject) -> int:
    """Return the number of parameters, as `a2mamba info` counts them."""
    return _parameters(_bare(subject))


def count_flops(subject: Subject, size: Size) -> int:
    """Return the multiply-accumulates for one image of this height and width, as `a2mamba info` counts them."""
    return _flops(_bare(subject), size)


def _bare(subject: Subject) -> Subject:
    """Return what decides the counts: tables that train one network differently count it once."""
    return Subject(subject.model, subject.task, subject.ours)


@cache
def _parameters(subject: Subject) -> int:
    return parameters(build(subject))


@cache
def _flops(subject: Subject, size: Size) -> int:
    record = None if subject.ours else timm.get_pretrained_cfg(subject.model.rpartition(" on ")[2])
    made_for_another = record is not None and record.fixed_input_size and record.input_size[1:] != size
    network = build(subject, size if made_for_another else None)
    return flops(DummyForward(network) if isinstance(network, Detector) else network, (3, *size))


def layout(subject: Subject) -> dict[str, tuple[int, ...]]:
    """Return channels, depths, heads and attention windows of the four stages of a backbone of this package."""
    network = build(_bare(subject))
    assert isinstance(network, Pyramid)
    stages = network.stage_list()
    return {
        "channels": tuple(network.channels),
        "depths": tuple(len(stage.blocks) for stage in stages),
        "heads": tuple(channels // stage.head_dim for channels, stage in zip(network.channels, stages, strict=True)),
        "kernel_sizes": tuple(_window(stage.blocks[0]) for stage in stages),
    }


def _window(block: nn.Module) -> int:
    mixer = block.mixer
    assert isinstance(mixer, (MASS, LASS))
    return mixer.kernel_size
