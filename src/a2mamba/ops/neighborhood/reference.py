"""Two-dimensional neighborhood attention, written to be read: this file is the specification.

Shapes: B batch, G heads, H and W the map, d width of a query/key head, e width of a value head,
K_h and K_w the number of keys per axis (the window, or the whole axis where the map is smaller).

The rule, per axis of length L with window K (odd) and dilation r: the positions congruent to i modulo r form a
sequence of their own. Position p of a sequence of length n attends to the K consecutive positions that start at
clamp(p - (K - 1) / 2, 0, n - K): at a border the window shifts, it never shrinks. Both axes together take the product.
The bias of a pair is ``bias[g, dy + K - 1, dx + K - 1]``, dy and dx being key position minus query position in those
sequences. Everything here works in the dtype that it is given, float64 included, and autograd differentiates it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def effective_window(length: int, kernel_size: int, dilation: int) -> tuple[int, int]:
    """Return the (window, dilation) that an axis of ``length`` positions can hold.

    A window of K positions at dilation r needs K * r <= L. On shorter axes the dilation falls to the largest that
    fits, and where even r = 1 does not fit, the window becomes the whole axis.
    """
    return min(kernel_size, length), max(1, min(dilation, length // kernel_size))


def axis_neighbors(length: int, kernel_size: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Return, for one axis, the key positions of every query and their offsets in the dilated sequence.

    Returns:
        ``(positions, offsets)``, both int64 of shape (L, K'), K' the effective window; offsets lie in [-(K-1), K-1].
    """
    window, step = effective_window(length, kernel_size, dilation)
    query = torch.arange(length)
    residue, p = query % step, query // step
    n = (length - residue + step - 1) // step
    start = torch.minimum((p - (kernel_size - 1) // 2).clamp(min=0), n - window)
    key = start[:, None] + torch.arange(window)
    return residue[:, None] + step * key, key - p[:, None]


def attention_map(
    q: Tensor,
    k: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    """Return the softmax weights of every query over its neighborhood.

    Args:
        q, k: (B, G, H, W, d).
        bias: (G, 2 K_h - 1, 2 K_w - 1) or None.

    Returns:
        (B, G, H, W, K_h', K_w'), summing to one over the last two axes.
    """
    height, width = q.shape[2:4]
    rows, dy = (t.to(q.device) for t in axis_neighbors(height, kernel_size[0], dilation[0]))
    columns, dx = (t.to(q.device) for t in axis_neighbors(width, kernel_size[1], dilation[1]))
    keys = _gather(k, rows, columns)
    scores = scale * torch.einsum("bghwd,bghwijd->bghwij", q, keys)
    if bias is not None:
        y = (dy + kernel_size[0] - 1)[:, None, :, None]
        x = (dx + kernel_size[1] - 1)[None, :, None, :]
        scores = scores + bias[:, y, x].to(scores.dtype)
    return scores.flatten(-2).softmax(-1).view_as(scores)


def apply_map(attention: Tensor, v: Tensor, kernel_size: tuple[int, int], dilation: tuple[int, int]) -> Tensor:
    """Return the values aggregated by a map of :func:`attention_map`: (B, G, H, W, e) for v of that shape."""
    rows = axis_neighbors(v.shape[2], kernel_size[0], dilation[0])[0].to(v.device)
    columns = axis_neighbors(v.shape[3], kernel_size[1], dilation[1])[0].to(v.device)
    return torch.einsum("bghwij,bghwije->bghwe", attention, _gather(v, rows, columns))


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    """Return neighborhood attention of (B, G, H, W, ...) tensors: the map, then its application."""
    return apply_map(attention_map(q, k, bias, kernel_size, dilation, scale), v, kernel_size, dilation).to(v.dtype)


def _gather(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return (B, G, H, W, K_h', K_w', d): the neighbors of every position of x (B, G, H, W, d)."""
    return x[:, :, rows[:, None, :, None], columns[None, :, None, :]]
