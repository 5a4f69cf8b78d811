"""Full self-attention over a small map, with a learned bias for every pair of positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def resize_pair_bias(bias: Tensor, tokens: int) -> Tensor:
    """Resize (G, N, N) to (G, tokens, tokens) as a one-image, G-channel picture: bicubic, align_corners false."""
    if bias.shape[-1] == tokens:
        return bias
    return F.interpolate(bias[None], size=(tokens, tokens), mode="bicubic", align_corners=False)[0]


class GlobalAttention(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v over all positions of a map (SPEC section 4, stage 4).

    At a map of another size than ``tokens`` the bias is resized, so memory grows with (H W)^2.

    Args:
        heads: G.
        tokens: N = H * W of the map that the bias is stored for.
        device, dtype: of the bias.
    """

    def __init__(
        self, heads: int, tokens: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(heads, tokens, tokens, device=device, dtype=dtype))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, G, H, W, d) each -> the same shape, with the heads of a position side by side in memory."""
        tokens = q.shape[2] * q.shape[3]
        bias = resize_pair_bias(self.bias, tokens).to(q.dtype)
        out = F.scaled_dot_product_attention(
            q.flatten(2, 3), k.flatten(2, 3), v.to(q.dtype).flatten(2, 3), attn_mask=bias[None]
        )
        return out.transpose(1, 2).contiguous().transpose(1, 2).view_as(v)

    def extra_repr(self) -> str:
        """Show the size of the bias."""
        return f"heads={self.bias.shape[0]}, tokens={self.bias.shape[1]}"
