"""Folding what is constant at inference into the weights: the same function with fewer passes over the maps."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from a2mamba.backbone.pyramid import Block, Downsample, Head, Pyramid, Stem
from a2mamba.layers import LASS, MASS, ChannelAffine, ResidualDepthwise

ModuleT = TypeVar("ModuleT", bound=nn.Module)

FUSED = "fused_for_inference"
"""Buffer that every fused backbone has, so that its state dict says what it is."""

NORMALISED: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    Stem: tuple((f"conv{i}", f"norm{i}") for i in (1, 2, 3, 4)),
    Downsample: (("conv", "norm"),),
    MASS: (("gate", "gate_norm"),),
    LASS: (("conv", "conv_norm"),),
    Head: (("conv", "norm"),),
}
"""Where a convolution is followed by its BatchNorm: their names, by the class that holds both."""


def fuse_for_inference(model: ModuleT) -> ModuleT:
    """Return a copy of a model that computes the same in fewer passes; the model itself is not changed.

    Folded are every BatchNorm of the backbone into the convolution before it, the affine scale of every branch into the
    projection before it, and the residual of every depthwise convolution into its kernel. What stays: LayerNorms, which
    depend on the data, and the scales of shortcuts, before which there is no projection. The folding is computed in
    float64; outputs differ by the rounding of the weights' dtype alone.

    The copy is for inference: its parameters need no gradients, and neither ``load_checkpoint`` nor ``to_released``
    takes it, because its weights are not those of a checkpoint. Load first, then fuse.

    Args:
        model: in evaluation mode: a backbone, a feature extractor made from one, or any module that contains one, of
            which only the backbone is fused.

    Raises:
        ValueError: if the model is in training mode, contains no backbone of ours, or was fused before.
    """
    backbones = [module for module in model.modules() if isinstance(module, Pyramid)]
    if not backbones:
        raise ValueError(f"{type(model).__name__} contains no A2Mamba or SegMAN backbone, so there is nothing to fuse")
    if any(module.training for module in model.modules() if isinstance(module, (Pyramid, nn.BatchNorm2d))):
        raise ValueError("a model in training mode cannot be fused; call model.eval() first")
    if any(is_fused(backbone) for backbone in backbones):
        raise ValueError("this model was fused before; fuse the model that it was made from")
    fused = copy.deepcopy(model).requires_grad_(False)
    for module in fused.modules():
        if isinstance(module, Pyramid):
            _fuse(module)
            module.eval()  # What was put in place of a norm as well.
    return fused


def is_fused(backbone: nn.Module) -> bool:
    """Whether a backbone came out of :func:`fuse_for_inference`."""
    return FUSED in dict(backbone.named_buffers(recurse=False))


def _fuse(backbone: Pyramid) -> None:
    """Fuse in place."""
    for module in backbone.modules():
        for conv, norm in NORMALISED.get(type(module), ()):
            # A LASS with global attention has neither.
            if hasattr(module, conv):
                setattr(module, conv, _with_norm(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
        if isinstance(module, Block):
            _scale_output(module.mixer.get_submodule("proj"), module.scale1)
            _scale_output(module.mlp.fc2, module.scale2)
            module.scale1, module.scale2 = nn.Identity(), nn.Identity()
        if isinstance(module, ResidualDepthwise):
            module.fold_residual()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    backbone.register_buffer(FUSED, torch.tensor(True, device=backbone.stem.conv1.weight.device))


def _with_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """Return one convolution that does both."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    dtype = conv.weight.dtype
    return fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype).requires_grad_(False)


def _scale_output(conv: nn.Module, scale: nn.Module) -> None:
    """Scale the output of a convolution in place, where ``scale`` is an affine one and not an Identity."""
    if not isinstance(scale, ChannelAffine):
        return
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    factor: Tensor = scale.weight.double()
    weight = conv.weight.double() * factor[:, None, None, None]
    bias = torch.addcmul(scale.bias.double(), conv.bias.double(), factor)
    conv.weight.data, conv.bias.data = weight.to(conv.weight.dtype), bias.to(conv.bias.dtype)
