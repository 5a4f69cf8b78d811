"""Cutting a map into a grid of windows, and putting it together again."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pad_to_grid(x: Tensor, cells: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), multiples of ``cells``, with zeros at the bottom and on the right."""
    return F.pad(x, (0, -x.shape[3] % cells, 0, -x.shape[2] % cells))


def to_windows(x: Tensor, cells: int) -> Tensor:
    """(B, C, H, W) -> (B, windows, positions, C): ``cells`` windows an axis, whose positions lie side by side."""
    x = x.unflatten(3, (cells, -1)).unflatten(2, (cells, -1))
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def from_windows(x: Tensor, cells: int, height: int, width: int) -> Tensor:
    """Invert :func:`to_windows` for a map of this height and width, multiples of ``cells``."""
    x = x.unflatten(2, (height // cells, width // cells)).unflatten(1, (cells, cells))
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
