"""The design of one backbone: a row of a table of variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from a2mamba.backbone.rules import Rule

ResidualScaling = Literal["none", "layer", "residual"]
"""What a per-channel affine multiplies: nothing, the branch, or the shortcut."""


class Mixer(Protocol):
    """Makes the token mixer of a block; ``global_tokens`` is given in the last stage only."""

    def __call__(
        self,
        channels: int,
        heads: int,
        kernel_size: int,
        global_tokens: int | None = None,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """Return a module that maps ((B, C, H, W), rope) to (B, C, H, W); rope are the rotations (H, W, C / G / 2, 2).

        Three names in it mean something elsewhere: a 1 x 1 convolution ``proj`` that makes the result takes in the
        branch's scale when the model is fused; ``conv_norms`` and ``fold`` say what else can be, see
        :func:`~a2mamba.backbone.fuse_for_inference`; and ``init_weights()`` sets what does not begin as every
        convolution does.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Mixer and sizes; sequences have one entry a stage."""

    mixer: Mixer
    """makes the token mixer of every block"""
    channels: Sequence[int]
    """C; every stage's are a multiple of 4 * heads"""
    depths: Sequence[int]
    """number of blocks"""
    heads: Sequence[int]
    """attention heads"""
    mlp_ratios: Sequence[float]
    """hidden channels of the feed-forward network over C"""
    kernel_sizes: Sequence[int] = (11, 9, 7, 7)
    """attention windows"""
    scaling: Sequence[ResidualScaling] = ("none",) * 4
    """residual scaling"""
    scale_init: Sequence[float] = (1, 1, 1, 1)
    """initial weight of its affines"""
    head_hidden_size: int = 1024
    """channels that the classifier sees"""
    crop_pct: float = 0.9
    """part of the resized image that evaluation looks at"""
    released_mixer: tuple[Rule, ...] | None = None
    """the mixer's weight table; none: files in a layout other than ours do not exist"""
    listed: bool = True
    """whether ``list_models()`` names it; ablations are made by name alone"""
