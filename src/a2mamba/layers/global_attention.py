"""Full self-attention over a small map, with a learned bias for every pair of positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers.chunking import chunk_bounds
from a2mamba.ops.dispatch import on_gpu, unwatched
from a2mamba.ops.precision import without_autocast
from a2mamba.ops.registration import register

MAX_CHUNK_ELEMENTS = 2**22
"""Elements of a resized bias that exist at a time, at inference."""

FUSED_WIDTH = 8
"""PyTorch's fused attention on GPUs takes heads of such multiples; others it computes step by step, score by score."""


def resize_pair_bias(bias: Tensor, tokens: int) -> Tensor:
    """Resize (G, N, N) to (G, tokens, tokens) as a one-image, G-channel image: bicubic, align_corners false.

    That is R b R^T with the (tokens, N) matrix R that resizes one axis. Two thin products are several times faster than
    the general interpolation, whose result they equal to rounding.
    """
    return bias if bias.shape[-1] == tokens else _resize(bias, tokens)


def _compute(bias: Tensor, tokens: int) -> Tensor:
    with without_autocast(bias):
        axis = axis_matrix(bias.shape[-1], tokens, bias)
        return (axis @ bias.to(axis.dtype) @ axis.T).to(bias.dtype)


def _compute_gradient(grad: Tensor, size: int) -> Tensor:
    with without_autocast(grad):
        axis = axis_matrix(size, grad.shape[-1], grad)
        return (axis.T @ grad.to(axis.dtype) @ axis).to(grad.dtype)


def axis_matrix(size: int, tokens: int, like: Tensor) -> Tensor:
    """Return R (tokens, size), float32 at least: what bicubic interpolation makes of every unit vector."""
    identity = torch.eye(size, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    return F.interpolate(identity[None, None], size=(tokens, size), mode="bicubic", align_corners=False)[0, 0]


def _fake(x: Tensor, size: int) -> Tensor:
    return x.new_empty(x.shape[0], size, size)


def _keep_size(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.size = inputs[0].shape[-1]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _resize_backward(grad.contiguous(), ctx.size), None


# An operator of its own, because interpolation counts no multiply-accumulates in the paper's figures.
_resize_backward = register(
    "a2mamba::resize_pair_bias_backward", "(Tensor grad, SymInt size) -> Tensor", _compute_gradient, _fake
)
_resize = register(
    "a2mamba::resize_pair_bias", "(Tensor bias, SymInt tokens) -> Tensor", _compute, _fake, _differentiate, _keep_size
)


class GlobalAttention(nn.Module):
    """softmax(q k^T / sqrt(d) + bias) v over all positions of a map (docs/network.md, section 7).

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
        q, k, values = q.flatten(2, 3), k.flatten(2, 3), v.to(q.dtype).flatten(2, 3)
        heads, tokens = q.shape[1:3]
        # A resized bias is larger than everything else, so at inference some heads have theirs at a time.
        max_heads = MAX_CHUNK_ELEMENTS // tokens**2 if unwatched(q) else heads
        parts = [
            self._attend(q[:, first:last], k[:, first:last], values[:, first:last], self.bias[first:last])
            for first, last in chunk_bounds(heads, max_heads)
        ]
        out = parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim=2)
        return out.transpose(1, 2).view_as(v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """(B, heads, tokens, d) each and the heads' biases -> (B, tokens, heads, d)."""
        bias = resize_pair_bias(bias, q.shape[2]).to(q.dtype)
        width = q.shape[-1]
        if width % FUSED_WIDTH == 0 or not on_gpu(q):
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None]).transpose(1, 2)
        q, k, v = (F.pad(x, (0, -width % FUSED_WIDTH)) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], scale=width**-0.5)
        return out[..., :width].transpose(1, 2)

    def extra_repr(self) -> str:
        """Show the size of the bias."""
        return f"heads={self.bias.shape[0]}, tokens={self.bias.shape[1]}"
