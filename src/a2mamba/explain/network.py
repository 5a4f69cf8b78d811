"""The backbone inside a classifier, a segmenter or a detector, and what its blocks are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from a2mamba.backbone import Pyramid
from a2mamba.backbone.block import Block


def pyramid_of(model: nn.Module) -> Pyramid:
    """Return the backbone of ours that a network is or has.

    Raises:
        ValueError: it has none, or it is in training mode, where looking would change its running statistics.
    """
    if model.training:
        raise ValueError("the network is in training mode; call model.eval() before it is explained")
    for module in model.modules():
        if isinstance(module, Pyramid):
            return module
    raise ValueError(f"{type(model).__name__} has no backbone of A2Mamba or SegMAN, whose blocks could be looked into")


def as_batch(model: nn.Module, image: Tensor) -> Tensor:
    """(C, H, W) or (1, C, H, W) -> (1, C, H, W) on the network's device.

    Raises:
        ValueError: for another shape.
    """
    batch = image[None] if image.dim() == 3 else image
    if batch.dim() != 4 or batch.shape[0] != 1:
        raise ValueError(f"expected one image (C, H, W) or (1, C, H, W), normalized, got {tuple(image.shape)}")
    parameter = next(model.parameters())
    return batch.to(parameter.device, torch.promote_types(parameter.dtype, torch.float32)).to(parameter.dtype)


def blocks_of(pyramid: Pyramid) -> Iterator[tuple[int, int, Block]]:
    """Yield (stage, number in it, block), both from 0, in the order in which they run."""
    for stage, part in enumerate(pyramid.stage_list()):
        for number, block in enumerate(part.blocks):
            assert isinstance(block, Block)
            yield stage, number, block


def run_once(pyramid: Pyramid, batch: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    """Run a backbone for what its hooks see, and take them off, whatever happens."""
    try:
        with torch.no_grad():
            pyramid.forward_features(batch)
    finally:
        for hook in hooks:
            hook.remove()
