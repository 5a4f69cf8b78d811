"""Folding what is constant at inference into the weights of a whole segmentation network."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from a2mamba.backbone import Pyramid, fuse_for_inference
from a2mamba.layers import ResidualDepthwise
from a2mamba.segmentation.conv import ConvNormReLU
from a2mamba.segmentation.rep_conv import RepConv
from a2mamba.segmentation.segman_v2 import GlobalMASS
from a2mamba.segmentation.segmenter import Segmenter


def fuse_segmenter(model: Segmenter) -> Segmenter:
    """Return a copy of a network that computes the same in fewer passes; the network itself is not changed.

    The backbone is fused by :func:`a2mamba.fuse_for_inference`, where it is one of ours. In the decoder every BatchNorm
    goes into the convolution before it, the branches of a re-parameterised convolution become one, and the residual of
    every depthwise convolution goes into its kernel. The auxiliary head, which inference does not use, is left out.

    The copy is for inference: it has other tensors than a checkpoint, so load first, then fuse.

    Args:
        model: in eval mode.

    Raises:
        ValueError: if the model is in training mode, or was fused before.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("a network in training mode cannot be fused; call model.eval() first")
    if any(isinstance(module, ConvNormReLU) and isinstance(module.norm, nn.Identity) for module in model.modules()):
        raise ValueError("this network was fused before; fuse the one that it was made from")
    ours = any(isinstance(module, Pyramid) for module in model.backbone.modules())
    fused = fuse_for_inference(model) if ours else copy.deepcopy(model).requires_grad_(False)
    fused.auxiliary = None
    for module in fused.decoder.modules():
        if isinstance(module, ConvNormReLU):
            module.conv, module.norm = _with_norm(module.conv, module.norm), nn.Identity()
        elif isinstance(module, GlobalMASS):
            module.gate, module.gate_norm = _with_norm(module.gate, module.gate_norm), nn.Identity()
        elif isinstance(module, RepConv):
            module.fuse()
        elif isinstance(module, ResidualDepthwise):
            module.fold_residual()
    return fused.eval().requires_grad_(False)


@torch.no_grad()
def _with_norm(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """Return one convolution that does both, folded in float64."""
    assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
    dtype = conv.weight.dtype
    return fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
