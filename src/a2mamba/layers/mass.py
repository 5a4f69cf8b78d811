"""MASS: multi-scale attention-augmented state-space token mixer (paper section III; docs/network.md, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from a2mamba.layers.a2ssm import A2SSM
from a2mamba.layers.channel_norm import ChannelNorm
from a2mamba.layers.depthwise import DepthwiseConv
from a2mamba.layers.gated_projection import gated_projection
from a2mamba.layers.global_attention import GlobalAttention
from a2mamba.layers.heads import from_heads, rotated_qkv
from a2mamba.layers.pointwise import PointwiseConv
from a2mamba.ops import BranchedMap


def adaptive_dilation(height: int, width: int, kernel_size: int) -> tuple[int, int]:
    """Return the dilation of the second branch: int(H / K) an axis, at least 1 and at most K."""
    return max(1, min(height // kernel_size, kernel_size)), max(1, min(width // kernel_size, kernel_size))


class MASS(nn.Module):
    """Sliding and adaptively dilated attention whose maps also aggregate the states of a selective scan.

    The first half of the heads attends to its neighborhood, the second half to a dilated one; the values of the
    second branch add the output of the first. Then either :class:`A2SSM` applies both maps again, to hidden states, or
    (``global_tokens`` given) full self-attention reuses the queries and keys.

    Args:
        channels: C, a multiple of 4 * heads.
        heads: G, even.
        kernel_size: window of both branches, odd.
        global_tokens: H * W of the map that the global bias is stored for, or None for a mixer with A2SSM.
        device, dtype: of the parameters.
    """

    conv_norms = (("gate", "gate_norm"),)

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
        self.gate = PointwiseConv(channels, channels, device=device, dtype=dtype)
        self.gate_norm = nn.BatchNorm2d(channels, device=device, dtype=dtype)
        self.qkv = PointwiseConv(channels, 3 * channels, device=device, dtype=dtype)
        self.lepe = DepthwiseConv(channels, 5, device=device, dtype=dtype)
        # One table: both branches of the released models share it.
        span = 2 * kernel_size - 1
        self.bias = nn.Parameter(torch.zeros(heads // 2, span, span, device=device, dtype=dtype))
        self.ssm = A2SSM(channels, heads, device=device, dtype=dtype) if global_tokens is None else None
        self.global_attention = (
            None if global_tokens is None else GlobalAttention(heads, global_tokens, device=device, dtype=dtype)
        )
        self.norm = ChannelNorm(channels, device=device, dtype=dtype)
        self.proj_norm = ChannelNorm(channels, device=device, dtype=dtype)
        self.proj = PointwiseConv(channels, channels, device=device, dtype=dtype)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            x: (B, C, H, W), normalized.
            rope: rotations of the map, (H, W, C / G / 2, 2).

        Returns:
            (B, C, H, W) in the dtype of the weights.
        """
        channels, height, width = x.shape[1:]
        gate = self.gate(x)
        qkv = self.qkv(x)
        lepe = self.lepe(qkv[:, 2 * channels :])
        q, k, v = rotated_qkv(qkv, self.heads, rope)
        dilation = adaptive_dilation(height, width, self.kernel_size)
        again = self.ssm is not None
        maps = BranchedMap(q, k, self.bias, kernel_size=self.kernel_size, dilation=dilation, again=again)
        y = maps.chain(v)
        if self.global_attention is not None:
            mixed = from_heads(self.global_attention(q, k, y))
        else:
            assert self.ssm is not None
            mixed = self.ssm(from_heads(y), maps)
        return gated_projection(mixed, lepe, gate, self.gate_norm, self.norm, self.proj_norm, self.proj)
