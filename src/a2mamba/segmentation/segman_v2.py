"""SegMAN-V2: a decoder that refines multi-scale context with a global MASS mixer, MM-Refine (paper, section III-E).

The paper fixes the shape of the decoder and leaves its widths and many details open; :class:`SegMANV2Config` has one
field for every open choice; the README of this folder says what is fixed, what was chosen, and how the counts compare.

Sizes for an image of H x W; C = ``width``, P = ``projection_width``, L = ``low_level_width``. The file reads downwards:
choices, global MASS, MM-Refine, decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.backbone.block import Block
from a2mamba.backbone.init import init_all
from a2mamba.layers import A2SSM, SS2D, GlobalAttention, gated_projection, rope_table
from a2mamba.layers.heads import from_heads, rotated_qkv, to_heads
from a2mamba.layers.rep_conv import RepConv
from a2mamba.segmentation.conv import (
    Classifier,
    ConvNormReLU,
    PooledConv,
    pad_to_multiple,
    pixel_unshuffle,
    resize_to,
)


@dataclass(frozen=True)
class SegMANV2Config:
    """Every choice of the decoder that the paper leaves open, for one size."""

    width: int
    """C, channels of F, of every branch of MM-Refine and of F_h"""
    projection_width: int
    """P, channels that stages 2 to 4 are projected to"""
    low_level_width: int | None
    """L, the paper's C_l: channels that stage 1 is projected to; None: no stage 1, and logits at stride 8"""
    mlp_ratio: float
    """of the feed-forward network after the mixer, whose channels are 3 C"""
    head_dim: int = 32
    """channels of an attention head; 3 C is a multiple of it, it is a multiple of 4"""
    projection_norm: bool = False
    """norm and ReLU after the projections of stages 2 to 4; SegMAN's decoder has a bias there instead"""
    pool_conv: bool = True
    """norm and ReLU, and a 1 x 1 convolution before them, after global average pooling, as in SegMAN's decoder"""
    identity_conv: bool = False
    """a 1 x 1 convolution on the identity path, as on the short path of SegMAN's decoder"""
    rotary: bool = True
    """rotary position encoding of the global attention, as everywhere in the encoder"""
    pair_bias_tokens: int | None = None
    """number of positions of a learned bias of all pairs, as in the encoder's last stage; None for no bias"""
    state_attention: bool = True
    """whether the global attention map aggregates the hidden states too, or they are read as they are"""
    refine_width: int | None = None
    """channels to which the output of MM-Refine is reduced before it is up-sampled; None keeps 3 C"""
    mixer: Literal["mass", "scan"] = "mass"
    """of MM-Refine: the global MASS, or the scan in four directions that SegMAN's decoder has (Table XIII)"""
    shortcut_kernel: int | None = 5
    """of the re-parameterized convolution; Table XIII compares 3, 5 and 7, and None for no shortcut"""
    shortcut_branches: tuple[tuple[int, int], ...] = ((3, 1), (3, 2))
    """(kernel size, dilation) of its further branches"""
    shortcut_depthwise: bool = True
    """whether that convolution is depthwise"""
    shortcut_merge: Literal["concatenate", "add"] = "concatenate"
    """whether the shortcut is one more input of the fusion, or added to the identity path"""
    linear_norm: bool = True
    """norm and ReLU after the "linear layer" that makes F_h"""
    drop_rate: float = 0.1
    """of the classifier's dropout"""


class GlobalMASS(nn.Module):
    """MASS with full self-attention in place of the sliding and the dilated one (the paper's mixer of MM-Refine).

    The map of the attention, softmax(q k^T / sqrt(d)), is applied to the values and then to the hidden states of a
    selective scan over the result. It is recomputed for the second time, so that memory grows with H W.

    Args:
        channels: C, a multiple of ``heads`` and, with ``rotary``, of 4 * heads.
        heads: G.
        rotary: turn queries and keys by their positions.
        pair_bias_tokens: number of positions of a learned bias of pairs, which is resized to the map; None for none.
        state_attention: whether the map aggregates the hidden states.
    """

    conv_norms = (("gate", "gate_norm"),)

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        rotary: bool = True,
        pair_bias_tokens: int | None = None,
        state_attention: bool = True,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.rotary = rotary
        self.state_attention = state_attention
        self.gate = nn.Conv2d(channels, channels, 1)
        self.gate_norm: nn.Module = nn.BatchNorm2d(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.attention = None if pair_bias_tokens is None else GlobalAttention(heads, pair_bias_tokens)
        self.ssm = A2SSM(channels, heads)
        self.norm = LayerNorm2d(channels)
        self.proj_norm = LayerNorm2d(channels)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x: (B, C, H, W), normalized.
            rope: rotations of the map, (H, W, C / G / 2, 2); read with ``rotary`` only.

        Returns:
            (B, C, H, W) in the dtype of the weights.
        """
        channels = x.shape[1]
        gate = self.gate(x)
        qkv = self.qkv(x)
        lepe = self.lepe(qkv[:, 2 * channels :])
        if self.rotary:
            q, k, v = rotated_qkv(qkv, self.heads, rope)
        else:
            q, k, v = (to_heads(part, self.heads) for part in qkv.chunk(3, dim=1))

        def attend(values: Tensor) -> Tensor:
            if self.attention is not None:
                return self.attention(q, k, values)
            states = values.to(q.dtype).flatten(2, 3)
            out = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), states)
            return out.view_as(values)

        def aggregate(states: Tensor) -> tuple[Tensor]:
            return (attend(states) if self.state_attention else states,)

        mixed = self.ssm(from_heads(attend(v)), aggregate)
        return gated_projection(mixed, lepe, gate, self.gate_norm, self.norm, self.proj_norm, self.proj)


class GlobalScan(nn.Module):
    """SS2D as the mixer of a block: what MM-Refine has in Table XIII before MASS.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ssm = SS2D(channels)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; the rotations are not read."""
        return self.ssm(x).to(x.dtype)


class MMRefine(nn.Module):
    """Context of three scales at stride 32, mixed by one block and up-sampled; F at stride 8 in and out.

    Three ways lead to stride 32, alike in cost and different in what they keep: lossless folding then a strided
    convolution, two strided convolutions, and a strided convolution then folding.

    Args:
        config: widths and choices.
    """

    def __init__(self, config: SegMANV2Config) -> None:
        super().__init__()
        width, mixed = config.width, 3 * config.width
        if mixed % config.head_dim or config.head_dim % 4:
            raise ValueError(
                f"width {width}: 3 * width must be a multiple of head_dim {config.head_dim}, and that one of 4"
            )
        self.head_dim = config.head_dim
        self.fold_conv = ConvNormReLU(4 * width, width, 3, stride=2)
        self.conv1 = ConvNormReLU(width, width, 3, stride=2)
        self.conv2 = ConvNormReLU(width, width, 3, stride=2)
        self.conv_fold = ConvNormReLU(4 * width, width)
        mixer: nn.Module = GlobalScan(mixed)
        if config.mixer == "mass":
            mixer = GlobalMASS(
                mixed,
                mixed // config.head_dim,
                rotary=config.rotary,
                pair_bias_tokens=config.pair_bias_tokens,
                state_attention=config.state_attention,
            )
        self.block = Block(mixed, mixer, int(config.mlp_ratio * mixed), drop_path=0.0, scaling="none", scale_init=1.0)
        init_all(self.block)
        self.reduce = None if config.refine_width is None else ConvNormReLU(mixed, config.refine_width)
        self.out_channels = mixed if config.refine_width is None else config.refine_width

    def forward(self, fused: Tensor) -> Tensor:
        """(B, C, H / 8, W / 8) -> (B, out_channels, H / 8, W / 8)."""
        # Folding twice by two needs sides that are multiples of 4; others are padded, and the result is cut.
        padded = pad_to_multiple(fused, 4)
        halved = self.conv1(padded)
        scales = (
            self.fold_conv(pixel_unshuffle(padded, 2)),
            self.conv2(halved),
            self.conv_fold(pixel_unshuffle(halved, 2)),
        )
        x = torch.cat(scales, dim=1)
        rope = rope_table(x.shape[2], x.shape[3], self.head_dim, x.device, torch.promote_types(x.dtype, torch.float32))
        x = self.block(x, rope)
        if self.reduce is not None:
            x = self.reduce(x)
        return resize_to(x, padded)[:, :, : fused.shape[2], : fused.shape[3]]


class SegMANV2Decoder(nn.Module):
    """Stages 2 to 4 fused at stride 8 and refined, then joined with stage 1 at stride 4, where the logits are.

    Args:
        channels: of the four maps, strides 4 to 32.
        num_classes: of the logits.
        config: widths and choices.
    """

    def __init__(self, channels: Sequence[int], *, num_classes: int, config: SegMANV2Config) -> None:
        super().__init__()
        first, *deeper = channels
        width, projected = config.width, config.projection_width
        self.shortcut_merge = config.shortcut_merge
        self.projections = nn.ModuleList(
            ConvNormReLU(c, projected) if config.projection_norm else nn.Conv2d(c, projected, 1) for c in deeper
        )
        self.fuse = ConvNormReLU(3 * projected, width)
        self.image_pool = PooledConv(width, width) if config.pool_conv else None
        self.identity = ConvNormReLU(width, width) if config.identity_conv else nn.Identity()
        self.refine = MMRefine(config)
        self.shortcut: RepConv | None = None
        if config.shortcut_kernel is not None:
            groups = None if config.shortcut_depthwise else 1
            self.shortcut = RepConv(width, config.shortcut_kernel, config.shortcut_branches, groups=groups)
        concatenated = self.shortcut is not None and config.shortcut_merge == "concatenate"
        inputs = (3 if concatenated else 2) * width + self.refine.out_channels
        self.linear = ConvNormReLU(inputs, width) if config.linear_norm else nn.Conv2d(inputs, width, 1)
        self.stride = 8 if config.low_level_width is None else 4
        self.low_level: ConvNormReLU | None = None
        if config.low_level_width is not None:
            self.low_level = ConvNormReLU(first, config.low_level_width)
            self.merge = ConvNormReLU(width + config.low_level_width, width)
        self.classifier = Classifier(width, num_classes, drop_rate=config.drop_rate)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Maps of strides 4, 8, 16, 32 -> logits (B, classes, H / 4, W / 4); at stride 8 without low-level features."""
        first, *deeper = features
        stages = [resize_to(project(x), deeper[0]) for project, x in zip(self.projections, deeper, strict=True)]
        fused = self.fuse(torch.cat(stages, dim=1))
        parts = [self.identity(fused)]
        if self.shortcut is not None:
            parts.append(self.shortcut(fused))
        if self.shortcut_merge == "add":
            parts = [torch.stack(parts).sum(0)]
        joined = self.linear(torch.cat([self._image_context(fused), *parts, self.refine(fused)], dim=1))
        if self.low_level is None:
            return self.classifier(joined)
        low_level = self.low_level(first)
        merged = self.merge(torch.cat((resize_to(joined, low_level), low_level), dim=1))
        return self.classifier(merged)

    def _image_context(self, fused: Tensor) -> Tensor:
        if self.image_pool is not None:
            return self.image_pool(fused)
        return fused.mean((2, 3), keepdim=True).expand_as(fused)


# Chosen by the counts of the paper's Tables VII and XIII: README.md has both, and tests recount ours.
VARIANTS: dict[str, SegMANV2Config] = {
    "segman_v2_nano": SegMANV2Config(width=160, projection_width=160, low_level_width=32, mlp_ratio=1),
    "segman_v2_tiny": SegMANV2Config(width=160, projection_width=192, low_level_width=64, mlp_ratio=2),
    "segman_v2_small": SegMANV2Config(width=160, projection_width=384, low_level_width=96, mlp_ratio=1),
    "segman_v2_base": SegMANV2Config(width=192, projection_width=384, low_level_width=96, mlp_ratio=2),
    "segman_v2_large": SegMANV2Config(width=256, projection_width=512, low_level_width=128, mlp_ratio=4),
    # For tests: every kind of part, on the backbone for tests.
    "segman_v2_test": SegMANV2Config(width=32, projection_width=16, low_level_width=8, mlp_ratio=1),
}

_TINY = VARIANTS["segman_v2_tiny"]
_SCAN = replace(_TINY, mixer="scan", shortcut_kernel=None, low_level_width=None)
# Table XIII, from progressive downsampling on; its first row is SegMAN's decoder, its last one segman_v2_tiny.
ROADMAP: dict[str, SegMANV2Config] = {
    "roadmap_progressive": _SCAN,
    "roadmap_local_3": replace(_SCAN, shortcut_kernel=3, shortcut_branches=()),
    "roadmap_local_5": replace(_SCAN, shortcut_kernel=5),
    "roadmap_local_7": replace(_SCAN, shortcut_kernel=7, shortcut_branches=((5, 1), (3, 1), (3, 2), (3, 3))),
    "roadmap_mass": replace(_TINY, low_level_width=None),
}
