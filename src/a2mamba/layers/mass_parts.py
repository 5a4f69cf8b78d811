"""MASS put together from its parts, between LASS and MASS: the mixers of the paper's Tables IX to XI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.a2ssm import A2SSM
from a2mamba.layers.deformable import DepthwiseDeformable
from a2mamba.layers.gated_projection import gated_projection
from a2mamba.layers.global_attention import GlobalAttention
from a2mamba.layers.heads import from_heads, rotated_qkv, to_heads
from a2mamba.layers.mass import adaptive_dilation
from a2mamba.layers.rep_conv import RepConv
from a2mamba.layers.row_scan import RowScan
from a2mamba.layers.ss2d import SS2D
from a2mamba.ops import NeighborhoodMap

REP_CONV_BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {
    3: (),
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
}
"""Size of a re-parameterized kernel -> (kernel size, dilation) of its further branches, as UniRepLKNet has them."""


@dataclass(frozen=True, kw_only=True)
class MASSOptions:
    """What of MASS a mixer has; the defaults are MASS.

    Raises:
        ValueError: for parts that no mixer has together.
    """

    dilations: tuple[int | Literal["adaptive"], ...] = (1, "adaptive")
    """of the attention's branches, which share the heads; a rate that does not fit the map falls to the largest that
    does"""
    scan: Literal["four directions", "rows", "attended"] = "attended"
    """LASS's scan in four directions, or one along the rows, both with its convolution, norm and residual; or A2SSM"""
    aggregate: Literal["attention", "rep_conv", "deform_conv", "none"] = "attention"
    """what A2SSM does with the hidden states before they are read out"""
    gate: bool = True
    """multiply by a gate, and a norm before the projection"""

    def __post_init__(self) -> None:
        if self.scan != "attended" and (self.gate or self.aggregate != "attention"):
            raise ValueError(f"scan={self.scan!r} has neither a gate nor an aggregation of states; leave them out")
        if not self.dilations:
            raise ValueError("the attention needs at least one branch")


class MASSParts(nn.Module):
    """The mixer that :class:`MASSOptions` describe; with the defaults it computes what :class:`MASS` does.

    Args:
        channels: C, a multiple of 4 * heads.
        heads: G, a multiple of the number of branches.
        kernel_size: window of all branches, odd.
        global_tokens: H * W of the map that the global bias is stored for; None for a mixer with a scan.
        options: which parts.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        kernel_size: int,
        global_tokens: int | None = None,
        *,
        options: MASSOptions,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        branches = len(options.dilations)
        if heads % branches:
            raise ValueError(f"{heads} heads cannot be shared by {branches} branches of attention")
        self.heads = heads
        self.kernel_size = kernel_size
        self.options = options
        self.conv_norms: tuple[tuple[str, str], ...] = ()
        if options.gate:
            self.gate = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)
            self.gate_norm = nn.BatchNorm2d(channels, device=device, dtype=dtype)
            self.proj_norm = LayerNorm2d(channels, device=device, dtype=dtype)
            self.conv_norms = (("gate", "gate_norm"),)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, device=device, dtype=dtype)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, device=device, dtype=dtype)
        span = 2 * kernel_size - 1
        self.bias = nn.Parameter(torch.zeros(heads // branches, span, span, device=device, dtype=dtype))
        self.global_attention: GlobalAttention | None = None
        self.ssm: nn.Module | None = None
        self.aggregate: nn.Module | None = None
        if global_tokens is not None:
            self.global_attention = GlobalAttention(heads, global_tokens, device=device, dtype=dtype)
        elif options.scan == "attended":
            self.ssm = A2SSM(channels, heads, device=device, dtype=dtype)
            if options.aggregate == "rep_conv":
                self.aggregate = RepConv(channels, kernel_size, REP_CONV_BRANCHES[kernel_size])
                self.aggregate.to(device=device, dtype=dtype)
            elif options.aggregate == "deform_conv":
                self.aggregate = DepthwiseDeformable(channels, kernel_size, device=device, dtype=dtype)
        else:
            scan = SS2D if options.scan == "four directions" else RowScan
            self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, device=device, dtype=dtype)
            self.conv_norm = nn.BatchNorm2d(channels, device=device, dtype=dtype)
            self.ssm = scan(channels, device=device, dtype=dtype)
            self.conv_norms = (("conv", "conv_norm"),)
        if options.scan == "attended" or global_tokens is None:
            self.norm = LayerNorm2d(channels, device=device, dtype=dtype)
        self.proj = nn.Conv2d(channels, channels, 1, device=device, dtype=dtype)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """Mix tokens: (B, C, H, W), with the rotations (H, W, C / G / 2, 2) of the map, to (B, C, H, W)."""
        gate = self.gate(x) if self.options.gate else None
        qkv = self.qkv(x)
        lepe = self.lepe(qkv[:, 2 * x.shape[1] :])
        q, k, v = rotated_qkv(qkv, self.heads, rope)
        maps = self._maps(q, k)
        y = self._attend(maps, v)
        if self.global_attention is not None:
            mixed = from_heads(self.global_attention(q, k, y))
        elif self.options.scan == "attended":
            assert self.ssm is not None
            mixed = self.ssm(from_heads(y), self._aggregation(maps))
        else:
            mixed = self._scanned(from_heads(y))
        if gate is not None:
            return gated_projection(mixed, lepe, gate, self.gate_norm, self.norm, self.proj_norm, self.proj)
        if self.options.scan == "attended":
            mixed = self.norm(mixed.to(self.norm.weight.dtype))
        return self.proj(mixed + lepe)

    def _maps(self, q: Tensor, k: Tensor) -> list[NeighborhoodMap]:
        """Return the attention map of each branch, on its share of the heads."""
        branches = len(self.options.dilations)
        height, width = q.shape[2:4]
        again = self.global_attention is None and self.options.scan == "attended"
        again = again and self.options.aggregate == "attention"
        return [
            NeighborhoodMap(
                queries,
                keys,
                self.bias,
                kernel_size=self.kernel_size,
                dilation=adaptive_dilation(height, width, self.kernel_size) if dilation == "adaptive" else dilation,
                again=again,
            )
            for queries, keys, dilation in zip(
                q.chunk(branches, dim=1), k.chunk(branches, dim=1), self.options.dilations, strict=True
            )
        ]

    def _attend(self, maps: Sequence[NeighborhoodMap], v: Tensor) -> Tensor:
        """Apply every branch to its values and the output of the branch before it; return all heads."""
        parts: list[Tensor] = []
        for attention, values in zip(maps, v.chunk(len(maps), dim=1), strict=True):
            parts.append(attention(parts[-1] + values if parts else values))
        return torch.cat([part.permute(0, 2, 3, 1, 4) for part in parts], dim=3).permute(0, 3, 1, 2, 4)

    def _aggregation(self, maps: Sequence[NeighborhoodMap]) -> Callable[[Tensor], Sequence[Tensor]]:
        """Return what A2SSM does with its states (B, G, H, W, d)."""
        if self.options.aggregate == "none":
            return lambda states: (states,)
        aggregate = self.aggregate
        if aggregate is not None:
            return lambda states: (to_heads(aggregate(from_heads(states)), self.heads),)
        return lambda states: tuple(
            attention(part) for attention, part in zip(maps, states.chunk(len(maps), dim=1), strict=True)
        )

    def _scanned(self, y: Tensor) -> Tensor:
        """LASS's way around a scan: convolution before it, norm and residual after it."""
        assert self.ssm is not None
        scanned = self.ssm(F.silu(self.conv_norm(self.conv(y))))
        return self.norm(scanned.to(self.norm.weight.dtype)) + y
