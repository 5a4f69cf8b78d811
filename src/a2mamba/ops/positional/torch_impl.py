"""The positional convolution with its sum and its norm as the modules are written, on every device."""

from __future__ import annotations

from torch import Tensor, nn


def positional_norm(
    x: Tensor, branch: Tensor | None, skip: nn.Module, pos: nn.Conv2d, norm: nn.LayerNorm
) -> tuple[Tensor, Tensor]:
    """Return two maps (B, C, H, W); arguments as in ``operator.positional_norm``. The modules are called."""
    x = pos(x if branch is None else skip(x) + branch)
    return x, norm(x)
