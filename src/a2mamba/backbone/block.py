"""The block around a token mixer, of backbones and of SegMAN-V2's decoder (docs/network.md, section 3)."""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from a2mamba.backbone.variant import ResidualScaling
from a2mamba.layers import ChannelAffine, ChannelNorm, ConvFFN, ResidualDepthwise
from a2mamba.ops import positional_norm


class Block(nn.Module):
    """Positional convolution, token mixer, positional convolution, feed-forward network (docs/network.md, section 3).

    Args:
        channels: C.
        mixer: maps ((B, C, H, W), rope) to (B, C, H, W).
        mlp_hidden: width of the feed-forward network.
        drop_path: probability of dropping a branch, per sample.
        scaling: "none"; "layer": each branch has a per-channel affine; "residual": each shortcut has one.
        scale_init: initial weight of those affines.
        device, dtype: of the parameters.
    """

    def __init__(
        self,
        channels: int,
        mixer: nn.Module,
        mlp_hidden: int,
        *,
        drop_path: float,
        scaling: ResidualScaling,
        scale_init: float,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()

        def scale(kind: ResidualScaling) -> nn.Module:
            if scaling != kind:
                return nn.Identity()
            return ChannelAffine(channels, scale_init, device=device, dtype=dtype)

        self.pos1 = ResidualDepthwise(channels, 3, device=device, dtype=dtype)
        self.norm1 = ChannelNorm(channels, before_products=True, device=device, dtype=dtype)
        self.mixer = mixer
        self.skip1, self.scale1 = scale("residual"), scale("layer")
        self.pos2 = ResidualDepthwise(channels, 3, device=device, dtype=dtype)
        self.norm2 = ChannelNorm(channels, before_products=True, device=device, dtype=dtype)
        self.mlp = ConvFFN(channels, mlp_hidden, device=device, dtype=dtype)
        self.skip2, self.scale2 = scale("residual"), scale("layer")
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """(B, C, H, W) and the rotations of the map -> (B, C, H, W)."""
        x, normal = positional_norm(x, None, self.skip1, self.pos1, self.norm1)
        mixed = self.drop_path(self.scale1(self.mixer(normal, rope)))
        x, normal = positional_norm(x, mixed, self.skip1, self.pos2, self.norm2)
        return self.skip2(x) + self.drop_path(self.scale2(self.mlp(normal)))

    def fold(self) -> None:
        """Fold the affine of every branch into the projection before it, for inference.

        The affine of a shortcut stays, and so does that of a mixer that does not end in a convolution ``proj``.
        """
        proj = getattr(self.mixer, "proj", None)
        if isinstance(proj, nn.Conv2d) and isinstance(self.scale1, ChannelAffine):
            self.scale1.fold_into(proj)
            self.scale1 = nn.Identity()
        if isinstance(self.scale2, ChannelAffine):
            self.scale2.fold_into(self.mlp.fc2)
            self.scale2 = nn.Identity()
