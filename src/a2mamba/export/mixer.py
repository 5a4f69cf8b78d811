"""MASS as runtimes run it fast: channels innermost, from the first convolution to the last.

The layers keep maps as PyTorch's kernels want them. In a graph every change of layout, every split and every reading of
every second channel is a pass of its own, which one thread makes. Here heads are rows of a position's channels, the
rotation is a product with a constant matrix, and queries, keys and values come from a convolution each. Maps keep their
four axes: of three, ONNX Runtime makes an addition and the LayerNorm behind it one operator, which is the slower one.
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from a2mamba.layers import A2SSM, MASS
from a2mamba.layers.mass import adaptive_dilation
from a2mamba.ops import BranchedMap, selective_scan_state


def on_tokens(network: nn.Module) -> nn.Module:
    """Return a copy of a network, sharing its tensors, with every :class:`~a2mamba.layers.MASS` as `TokenMASS`."""
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    network = copy.deepcopy(network, shared)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is MASS:  # a subclass may compute something else
                setattr(module, name, TokenMASS(child))
    return network


class TokenMASS(nn.Module):
    """The function of a :class:`~a2mamba.layers.MASS` in eval mode, to rounding; it shares the parameters.

    Args:
        mixer: in eval mode, its gate's norm folded.
    """

    swap: Tensor

    def __init__(self, mixer: MASS) -> None:
        super().__init__()
        self.mixer = mixer
        channels = mixer.qkv.in_channels
        self.queries, self.keys, self.values = (
            _some_outputs(mixer.qkv, slice(i * channels, (i + 1) * channels)) for i in range(3)
        )
        self.register_buffer("swap", swap_pairs(channels // mixer.heads), persistent=False)

    def forward(self, x: Tensor, rope: Tensor) -> Tensor:
        """See `MASS.forward`."""
        mixer = self.mixer
        channels, height, width = x.shape[1:]
        gate = F.silu(_tokens(mixer.gate_norm(mixer.gate(x))))
        values = self.values(x)
        lepe = _tokens(mixer.lepe(values))
        q, k = (self._rotated(_heads(_tokens(conv(x)), mixer.heads), rope) for conv in (self.queries, self.keys))
        dilation = adaptive_dilation(height, width, mixer.kernel_size)
        maps = BranchedMap(q, k, mixer.bias, kernel_size=mixer.kernel_size, dilation=dilation)
        y = maps.chain(_heads(_tokens(values), mixer.heads))
        if mixer.global_attention is not None:
            mixed = _side_by_side(mixer.global_attention(q, k, y))
        else:
            assert mixer.ssm is not None
            mixed = self._scanned(mixer.ssm, y, maps)
        norm, out_norm = mixer.norm, mixer.proj_norm
        mixed = F.layer_norm(mixed, (channels,), norm.weight, norm.bias, norm.eps)
        out = F.layer_norm((mixed + lepe) * gate, (channels,), out_norm.weight, out_norm.bias, out_norm.eps)
        return mixer.proj(_map(out))

    def _rotated(self, heads: Tensor, rope: Tensor) -> Tensor:
        """Rotate neighboring channel pairs of (B, G, H, W, d)."""
        cosine, sine = (each.repeat_interleave(2, dim=-1) for each in rope.unbind(-1))
        return heads * cosine + heads @ self.swap * sine

    def _scanned(self, ssm: A2SSM, y: Tensor, maps: BranchedMap) -> Tensor:
        """`A2SSM.forward`, from heads (B, G, H, W, d) to (B, H, W, C)."""
        heads, height, width = y.shape[1:4]
        u = _tokens(ssm.conv(_map(_side_by_side(y))))
        sequence = u.flatten(1, 2)
        dt, B, C = F.linear(sequence, ssm.x_proj.weight).split((ssm.rank, 1, 1), dim=-1)
        states = selective_scan_state(
            sequence.transpose(1, 2),
            F.linear(dt, ssm.dt_proj.weight).transpose(1, 2),
            -ssm.A_log.exp(),
            B.squeeze(-1),
            ssm.dt_proj.bias,
        )
        states = _heads(states.transpose(1, 2).unflatten(1, (height, width)), heads)
        aggregated = torch.cat(maps(states), dim=1)
        mixed = ssm.head_mix.weight @ aggregated.flatten(2) + ssm.head_mix.bias[:, None]
        return _side_by_side(mixed.view_as(aggregated)) * C.unflatten(1, (height, width)) + u * ssm.D


def swap_pairs(channels: int) -> Tensor:
    """Return S with x S = (-b, a, -d, c, ...) of x = (a, b, c, d, ...)."""
    return torch.block_diag(*[torch.tensor([[0.0, 1.0], [-1.0, 0.0]])] * (channels // 2))


def _some_outputs(conv: nn.Conv2d, outputs: slice) -> nn.Conv2d:
    """A 1 x 1 convolution with some of another's outputs."""
    assert conv.bias is not None
    weight, bias = conv.weight[outputs], conv.bias[outputs]
    part = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    part.weight, part.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return part


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C)."""
    return x.permute(0, 2, 3, 1)


def _map(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, H, W, G d) -> (B, G, H, W, d)."""
    return x.unflatten(3, (heads, -1)).permute(0, 3, 1, 2, 4)


def _side_by_side(x: Tensor) -> Tensor:
    """(B, G, H, W, d) -> (B, H, W, G d)."""
    return x.permute(0, 2, 3, 1, 4).flatten(3)
