"""LASS: the token mixer of SegMAN, A2Mamba's predecessor (docs/network.md, section 8)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.channel_norm import ChannelNorm
from a2mamba.layers.depthwise import DepthwiseConv
from a2mamba.layers.global_attention import GlobalAttention
from a2mamba.layers.heads import from_heads, rotated_qkv
from a2mamba.layers.pointwise import PointwiseConv
from a2mamba.layers.ss2d import SS2D
from a2mamba.ops import neighborhood_attention


class LASS(nn.Module):
    """Neighborhood attention followed by SS2D, or (``global_tokens`` given) by full self-attention.

    Args:
        channels: C, a multiple of 4 * heads.
        heads: G.
        kernel_size: attention window, odd.
        global_tokens: H * W of the map that the global bias is stored for, or None for a mixer with SS2D.
        device, dtype: of the parameters.
    """

    # With global attention it has neither.
    conv_norms = (("conv", "conv_norm"),)

    def __init__(
        self,
        channels: int,
        heads: int,
        kernel_size: int,
        global_tokens: int | None = None,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.kernel_size = kernel_size
        self.qkv = PointwiseConv(channels, 3 * channels, device=device, dtype=dtype)
        self.lepe = DepthwiseConv(channels, 5, device=device, dtype=dtype)
        span = 2 * kernel_size - 1
        self.bias = nn.Parameter(torch.zeros(heads, span, span, device=device, dtype=dtype))
        self.global_attention: GlobalAttention | None = None
        self.ssm: SS2D | None = None
        if global_tokens is not None:
            self.global_attention = GlobalAttention(heads, global_tokens, device=device, dtype=dtype)
        else:
            self.conv = DepthwiseConv(channels, 3, device=device, dtype=dtype)
            self.conv_norm = nn.BatchNorm2d(channels, device=device, dtype=dtype)
            self.ssm = SS2D(channels, device=device, dtype=dtype)
            self.norm = ChannelNorm(channels, device=device, dtype=dtype)
        self.proj = PointwiseConv(channels, channels, device=device, dtype=dtype)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """Mix tokens: (B, C, H, W), with the rotations (H, W, C / G / 2, 2) of the map, to (B, C, H, W)."""
        qkv = self.qkv(x)
        lepe = self.lepe(qkv[:, 2 * x.shape[1] :])
        q, k, v = rotated_qkv(qkv, self.heads, rope)
        y = neighborhood_attention(q, k, v, self.bias, kernel_size=self.kernel_size)
        if self.global_attention is not None:
            mixed = from_heads(self.global_attention(q, k, y))
        else:
            assert self.ssm is not None
            y = from_heads(y)
            scanned = self.ssm(F.silu(self.conv_norm(self.conv(y))))
            mixed = self.norm(scanned.to(self.norm.weight.dtype)) + y
        return self.proj(mixed + lepe)
