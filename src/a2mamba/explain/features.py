"""The three principal components of a feature map, as colors: what a network sees as alike has one color."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from a2mamba.explain.network import as_batch, pyramid_of


def stage_maps(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Return the maps of the backbone's stages, float32 (C, h, w) each, on the CPU.

    Args:
        model: as in ``attention_maps``.
        image: as in ``attention_maps``.

    Raises:
        ValueError: another shape, or a network in training mode.
    """
    pyramid, batch = pyramid_of(model), as_batch(model, image)
    with torch.no_grad():
        maps = pyramid.forward_intermediates(batch, intermediates_only=True)
    return [each[0].float().cpu() for each in maps]


def principal_colors(features: Tensor) -> Tensor:
    """Return the first three principal components of a map's positions as red, green and blue, each from 0 to 1.

    Each component runs from its 1st to its 99th percentile; its sign is such that its largest loading is positive.
    Components that the map has no variance for are 0.5.

    Args:
        features: floating (C, h, w), C at least 3.

    Returns:
        float32 (3, h, w).
    """
    height, width = features.shape[1:]
    points = features.double().flatten(1).T
    points = points - points.mean(0)
    variances, axes = torch.linalg.eigh(points.T @ points)
    axes = axes[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    found = points @ axes
    low, high = (torch.quantile(found, share, dim=0) for share in (0.01, 0.99))
    spread = high - low
    flat = variances[-3:].flip(0) <= 1e-12 * variances[-1].clamp(min=torch.finfo(torch.float64).tiny)
    colors = ((found - low) / spread.clamp(min=torch.finfo(torch.float64).tiny)).clamp(0, 1)
    colors[:, flat | (spread <= 0)] = 0.5
    return colors.T.float().view(3, height, width)
