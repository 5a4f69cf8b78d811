"""Folding what is constant at inference into the weights: the same function with fewer passes over the maps.

A module says itself what can be folded in it. ``conv_norms`` are the pairs of names of a convolution and the BatchNorm
behind it; ``fold()`` does in place whatever else there is.
"""

from __future__ import annotations

import copy
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from a2mamba.backbone.pyramid import Pyramid

ModuleT = TypeVar("ModuleT", bound=nn.Module)

FUSED = "fused_for_inference"
"""Buffer that every fused backbone has, so that its state dict says what it is."""


@runtime_checkable
class Foldable(Protocol):
    """A module with something to fold beside ``conv_norms``."""

    def fold(self) -> None:
        """Fold it, in place; the module computes the same in evaluation mode, to rounding."""
        ...


def fuse_for_inference(model: ModuleT) -> ModuleT:
    """Return a copy of a model that computes the same in fewer passes; the model itself is not changed.

    Folded are BatchNorms into the convolution before them, the affine scale of every branch into the projection before
    it, the residual of every depthwise convolution into its kernel, and the branches of a re-parameterized convolution
    into one. An auxiliary head, which inference does not use, is left out. What stays: LayerNorms, which depend on the
    data, the scales of shortcuts, before which there is no projection, and norms in modules that are not ours. The
    folding is computed in float64; outputs differ by the rounding of the weights' dtype alone.

    The copy is for inference: its parameters need no gradients, and neither ``load_checkpoint`` nor ``to_released``
    takes it, because its weights are not those of a checkpoint. Load first, then fuse.

    Args:
        model: in evaluation mode: a backbone, a feature extractor made from one, a segmenter, a detector, or any module
            that contains one of those.

    Raises:
        ValueError: if the model is in training mode, contains nothing of ours, or was fused before.
    """
    parts = [module for module in model.modules() if conv_norms(module) or isinstance(module, Foldable)]
    if not parts:
        raise ValueError(f"{type(model).__name__} contains no A2Mamba or SegMAN part, so there is nothing to fuse")
    norms = [part.get_submodule(norm) for part in parts for _, norm in conv_norms(part)]
    if any(module.training for module in (*parts, *norms)):
        raise ValueError("a model in training mode cannot be fused; call model.eval() first")
    if any(isinstance(norm, nn.Identity) for norm in norms):
        raise ValueError("this model was fused before; fuse the model that it was made from")
    fused = copy.deepcopy(model).requires_grad_(False)
    for module in list(fused.modules()):
        for conv, norm in conv_norms(module):
            _replace(module, conv, _with_norm(module.get_submodule(conv), module.get_submodule(norm)))
            _replace(module, norm, nn.Identity())
        if isinstance(module, Foldable):
            module.fold()
        if isinstance(module, Pyramid):
            module.register_buffer(FUSED, torch.tensor(True, device=module.stem.conv1.weight.device))
    return fused.eval().requires_grad_(False)


def is_fused(backbone: nn.Module) -> bool:
    """Whether a backbone came out of :func:`fuse_for_inference`."""
    return FUSED in dict(backbone.named_buffers(recurse=False))


def conv_norms(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of convolutions of a module and of the norms behind them, of those that it has."""
    declared: tuple[tuple[str, str], ...] = getattr(module, "conv_norms", ())
    has = dict(module.named_modules()) if declared else {}
    return [(conv, norm) for conv, norm in declared if conv in has]


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(path), leaf, part)


@torch.no_grad()
def _with_norm(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """Return one convolution that does both, folded in float64."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, _BatchNorm)
    dtype = conv.weight.dtype
    return fuse_conv_bn_eval(conv.double(), norm.double()).to(dtype)
