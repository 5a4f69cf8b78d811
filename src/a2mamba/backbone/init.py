"""Initial values of whole networks (docs/network.md, section 9)."""

from __future__ import annotations

import torch
from timm.layers import trunc_normal_
from torch import nn


def init_plain(module: nn.Module) -> None:
    """Initialize convolutions and linear maps: weights truncated normal (std 0.02), biases zero."""
    if isinstance(module, (nn.Conv2d, nn.Linear)):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def init_all(network: nn.Module) -> None:
    """Set the initial values of everything inside a network: plain ones first, then what layers define themselves.

    A layer does so by a method ``init_weights()``.
    """
    network.apply(init_plain)
    for module in network.modules():
        define = getattr(module, "init_weights", None)
        if define is not None and module is not network:
            define()
