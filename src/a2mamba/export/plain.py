"""Our operators as PyTorch's own operations, for what knows neither ours nor ONNX: AOTInductor and Core ML.

The forms are those of `attention` and `scan`, and a program is traced again through them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.nn import functional as F

from a2mamba.export.attention import Axis, Table, cut_map, grid, slots
from a2mamba.export.operators import by_operator
from a2mamba.export.program import trace
from a2mamba.export.scan import SEQUENTIAL, chunk_size
from a2mamba.layers.global_attention import axis_matrix


def plain(program: ExportedProgram) -> ExportedProgram:
    """Return the program without operators of ours."""
    forms = by_operator(
        neighborhood_attention=neighborhood_attention,
        selective_scan_state=selective_scan_state,
        resize_pair_bias=resize_pair_bias,
    )
    module = program.module()
    for node in module.graph.nodes:
        if node.target is torch.ops.a2mamba.resize_pair_bias.default:
            _bake_axis(module, node)
        node.target = forms.get(node.target, node.target)
    module.recompile()
    (example,), _ = program.example_inputs
    return trace(module, example)


def _bake_axis(module: fx.GraphModule, node: fx.Node) -> None:
    """Let a call take the matrix that resizes an axis, a constant, in place of the number of tokens."""
    bias, tokens = node.args
    assert isinstance(bias, fx.Node)
    assert isinstance(tokens, int)
    name = f"axis_{node.name}"
    module.register_buffer(name, axis_matrix(bias.meta["val"].shape[-1], tokens, torch.empty(0)))
    with module.graph.inserting_before(node):
        node.args = (bias, module.graph.get_attr(name))


def selective_scan_state(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
) -> Tensor:
    """The operator, see `a2mamba.ops`; B is (B, N, L)."""
    step = delta.transpose(1, 2)
    if delta_bias is not None:
        step = step + delta_bias
    if delta_softplus:
        step = F.softplus(step)
    groups = B.shape[1]
    x = (step * u.transpose(1, 2)).unflatten(2, (groups, -1)) * B.transpose(1, 2)[..., None]
    return linear_recurrence(step * A, x.flatten(2)).transpose(1, 2)


def linear_recurrence(log_decay: Tensor, x: Tensor) -> Tensor:
    """Return h with h_t = exp(log_decay_t) h_{t-1} + x_t along axis 1 of (B, L, C)."""
    length = x.shape[1]
    if length <= SEQUENTIAL:
        return torch.stack(_steps(log_decay.exp(), x, 1), dim=1)
    size = chunk_size(length)
    chunks = -(-length // size)
    after = (0, 0, 0, chunks * size - length)
    log_decay, x = (F.pad(each, after).unflatten(1, (chunks, size)) for each in (log_decay, x))
    states = _steps(log_decay.exp(), x, 2)
    decay = log_decay.cumsum(dim=2)
    carried = linear_recurrence(decay[:, :-1, -1], states[-1][:, :-1])
    carried = F.pad(carried, (0, 0, 1, 0))  # nothing into the first
    h = torch.stack(states, dim=2) + decay.exp() * carried[:, :, None]
    return h.flatten(1, 2)[:, :length]


def _steps(decay: Tensor, x: Tensor, dim: int) -> list[Tensor]:
    decays, inputs = decay.unbind(dim), x.unbind(dim)
    states = [inputs[0]]
    for a, b in zip(decays[1:], inputs[1:], strict=True):
        states.append(a * states[-1] + b)
    return states


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> Tensor:
    """The operator, see `a2mamba.ops`."""
    heads, height, width = (int(size) for size in v.shape[1:4])
    window = (int(kernel_size[0]), int(kernel_size[1]))
    y, x = cut_map(height, width, window, (int(dilation[0]), int(dilation[1])))
    queries, keys = grid(y.queries, x.queries, width), grid(y.keys, x.keys, width)
    scores = _tiles(q * scale, queries) @ _tiles(k, keys).transpose(3, 4)
    attention = (scores + _pair_bias(bias, heads, window, y, x)).softmax(dim=-1)
    out = (attention @ _tiles(v, keys)).flatten(2, 3)
    return _take(out, slots(y, x, height, width)).unflatten(2, (height, width))


def _tiles(x: Tensor, tokens: Table) -> Tensor:
    """(B, G, H, W, d) and tokens (T, n) -> (B, G, T, n, d)."""
    return _take(x.flatten(2, 3), tokens).unflatten(2, tokens.shape)


def _take(x: Tensor, tokens: Table) -> Tensor:
    flat = tokens.flatten()
    return x if np.array_equal(flat, np.arange(x.shape[2])) else x.index_select(2, _index(flat))


def _index(table: Table) -> Tensor:
    return torch.tensor(table.flatten().tolist())


def _pair_bias(bias: Tensor | None, heads: int, window: tuple[int, int], y: Axis, x: Axis) -> Tensor:
    """Return (G, T, Q, K'), see `attention`."""
    if bias is None:
        bias, heads = torch.zeros(1, 2 * window[0] - 1, 2 * window[1] - 1), 1
    table = F.pad(bias, (0, 1, 0, 1), value=float("-inf"))
    pairs = table.index_select(1, _index(y.offsets)).index_select(2, _index(x.offsets))
    (th, qh, kh), (tw, qw, kw) = y.offsets.shape, x.offsets.shape
    pairs = pairs.reshape(heads, th, qh * kh, tw, qw * kw).permute(0, 1, 3, 2, 4)
    pairs = pairs.reshape(heads * th * tw, qh, kh, qw, kw).permute(0, 1, 3, 2, 4)
    return pairs.reshape(heads, th * tw, qh * qw, kh * kw)


def resize_pair_bias(bias: Tensor, axis: Tensor) -> Tensor:
    """Resize (G, N, N) to (G, tokens, tokens) by the (tokens, N) matrix that resizes an axis."""
    return axis @ bias @ axis.T
