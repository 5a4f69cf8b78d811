"""Parameters and multiply-accumulates of what a row is about, counted on the meta device: nothing is computed."""

from __future__ import annotations

from functools import cache

import timm
import torch
from torch import nn

from a2mamba.analysis import flops, parameters
from a2mamba.backbone import Pyramid, create_model, list_models
from a2mamba.detection import Detector, DummyForward, create_detector, list_detectors
from a2mamba.segmentation import create_segmenter, list_segmenters

Size = tuple[int, int]


@cache
def build(model: str, size: Size | None = None) -> nn.Module:
    """Return a network without values, in eval mode, with the classes of ImageNet-1K, ADE20K or COCO.

    Args:
        model: name of a backbone, segmentation network or detector of this package, or of a model of timm.
        size: of the images, for the models of timm that are made for one.
    """
    if model in list_segmenters():
        return create_segmenter(model, num_classes=150, device="meta").eval()
    if model in list_detectors():
        return create_detector(model, num_classes=80, device="meta").eval()
    if model in list_models():
        return create_model(model, device="meta").eval()
    with torch.device("meta"):
        return timm.create_model(model, **({} if size is None else {"img_size": size})).eval()


@cache
def count_parameters(model: str) -> int:
    """Return the number of parameters, as `a2mamba info` counts them."""
    return parameters(build(model))


@cache
def count_flops(model: str, size: Size) -> int:
    """Return the multiply-accumulates for one image of this height and width, as `a2mamba info` counts them."""
    record = timm.get_pretrained_cfg(model)
    made_for_one = record is not None and bool(record.fixed_input_size)
    network = build(model, size if made_for_one and size != record.input_size[1:] else None)
    return flops(DummyForward(network) if isinstance(network, Detector) else network, (3, *size))


def layout(model: str) -> dict[str, tuple[int, ...]]:
    """Return channels, depths, heads and attention windows of the four stages of a backbone of this package."""
    network = build(model)
    assert isinstance(network, Pyramid)
    stages = network.stage_list()
    return {
        "channels": tuple(network.channels),
        "depths": tuple(len(stage.blocks) for stage in stages),
        "heads": tuple(channels // stage.head_dim for channels, stage in zip(network.channels, stages, strict=True)),
        "kernel_sizes": tuple(stage.blocks[0].mixer.kernel_size for stage in stages),
    }
