"""Small networks to be explained."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

import a2mamba
from a2mamba.backbone import Pyramid

ModelT = TypeVar("ModelT", bound=nn.Module)


def classifier(name: str = "a2mamba_test") -> Pyramid:
    """Return a backbone none of whose parameters is zero, so that each counts."""
    torch.manual_seed(0)
    model = a2mamba.create_model(name, num_classes=3, img_size=64).eval()
    return _stirred(model)


def segmenter() -> nn.Module:
    """Return a segmentation network of four classes."""
    torch.manual_seed(0)
    return _stirred(a2mamba.create_segmenter("segman_v2_test", num_classes=4).eval())


def detector() -> nn.Module:
    """Return a detector of four classes that finds something in noise."""
    torch.manual_seed(0)
    return a2mamba.create_detector("mask_rcnn_a2mamba_test", num_classes=4).eval()


def _stirred(model: ModelT) -> ModelT:
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model
