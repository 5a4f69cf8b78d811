"""The effective receptive field (arXiv:1701.04128; paper Fig. 5): how much each pixel moves the middle of a map."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from a2mamba.detection import Detector
from a2mamba.explain.network import pyramid_of
from a2mamba.segmentation import Segmenter


def last_map(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return what maps (1, C, H, W) to the last map (1, C', h, w) of a backbone.

    Args:
        model: one of ours, or any model of timm with ``forward_intermediates``, in eval mode.

    Raises:
        ValueError: it has no such maps, or is in training mode.
    """
    network = pyramid_of(model) if isinstance(model, (Segmenter, Detector)) else model
    intermediates = getattr(network, "forward_intermediates", None)
    if network.training or intermediates is None:
        raise ValueError(f"{type(model).__name__} must be in eval mode and have forward_intermediates, as timm's have")

    def last(x: Tensor) -> Tensor:
        maps: Sequence[Tensor] = intermediates(x, indices=1, intermediates_only=True)
        return maps[-1]

    return last


def effective_receptive_field(features: Callable[[Tensor], Tensor], images: Iterable[Tensor]) -> Tensor:
    """Return how strongly each pixel moves the middle of a feature map, averaged over images.

    That is the gradient of the sum of all channels at the middle position by the image, its absolute value, summed over
    the image's channels.

    Args:
        features: (1, C, H, W) -> (1, C', h, w), differentiable; see ``last_map``.
        images: float (C, H, W), all of one size, normalized as the network takes them.

    Returns:
        float64 (H, W).

    Raises:
        ValueError: no images, or of several sizes.
    """
    total: Tensor | None = None
    count = 0
    for image in images:
        with torch.enable_grad():
            x = image[None].clone().requires_grad_()
            maps = features(x)
            middle = maps[0, :, maps.shape[2] // 2, maps.shape[3] // 2].sum()
            (gradient,) = torch.autograd.grad(middle, x)
        field = gradient[0].double().abs().sum(0).cpu()
        if total is not None and total.shape != field.shape:
            raise ValueError(f"images of {tuple(total.shape)} and {tuple(field.shape)}: expected one size")
        total = field if total is None else total + field
        count += 1
    if total is None:
        raise ValueError("no images; an effective receptive field needs at least one")
    return total / count


def side_holding(field: Tensor, share: float) -> int:
    """Return the side of the smallest square around the middle that holds a share of the field, in pixels.

    Args:
        field: (H, W) of ``effective_receptive_field``.
        share: 0 to 1.
    """
    height, width = field.shape
    whole = float(field.sum())
    for reach in range(max(height, width)):
        top, left = max(0, height // 2 - reach), max(0, width // 2 - reach)
        if float(field[top : height // 2 + reach + 1, left : width // 2 + reach + 1].sum()) >= share * whole:
            return min(2 * reach + 1, max(height, width))
    return max(height, width)
