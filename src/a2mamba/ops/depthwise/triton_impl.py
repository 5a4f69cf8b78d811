"""The depthwise convolution on GPUs, at inference: launches of ``triton_kernels.py`` and checks."""

from __future__ import annotations

import math

import torch
import triton
from torch import Tensor

from a2mamba.ops.depthwise import triton_kernels as kernels
from a2mamba.ops.dispatch import unfit
from a2mamba.ops.triton_launch import Launch, kind, on_device, remembered, repeated
from a2mamba.ops.triton_maps import empty_map, position_stride, unfit_maps, watched

TILE = (4, 8)
"""Positions of a program: every thread has eight channels of one, sixteen bytes in half precision."""

MAX_CHANNELS = 64
"""Channels of a program, at most."""

MAX_KERNEL = 7
"""The taps are written out one by one."""


def why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    """Return why this kernel cannot run the arguments of ``operator.depthwise_conv``, or None."""
    return watched(x) or _unfit(x, weight, bias)


@remembered
def _unfit(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    if weight.shape[-1] > MAX_KERNEL:
        return f"kernels have up to {MAX_KERNEL} x {MAX_KERNEL} taps, got {weight.shape[-1]}"
    objection = unfit(x=x, weight=weight, bias=bias) or unfit_maps(x=x)
    if objection is None and x.shape[2] * x.shape[3] * (position_stride(x) or 0) >= 2**31:
        return "an image of x spans 2^31 elements or more"
    return objection


def forward_launch(out: Tensor, x: Tensor, taps: Tensor, bias: Tensor, *, residual: bool) -> Launch:
    """Launch that fills ``out``; ``taps`` are the weight as (K * K, C)."""
    batch, channels, height, width = x.shape
    # The largest power of two that divides the channels wastes no thread, where it is not too small.
    shared = math.gcd(MAX_CHANNELS, channels)
    block = shared if shared >= 16 else min(MAX_CHANNELS, max(16, triton.next_power_of_2(channels)))
    tiles_y, tiles_x, blocks = triton.cdiv(height, TILE[0]), triton.cdiv(width, TILE[1]), triton.cdiv(channels, block)
    arguments = {
        "x": x,
        "weight": taps,
        "bias": bias,
        "out": out,
        "height": height,
        "width": width,
        "tiles_y": tiles_y,
        "tiles_x": tiles_x,
        "blocks": blocks,
        "x_p": position_stride(x),
        "C": channels,
        "BLOCK_C": block,
        "K": math.isqrt(len(taps)),
        "T_Y": TILE[0],
        "T_X": TILE[1],
        "RESIDUAL": residual,
        "num_warps": block // 8,
    }
    return kernels.depthwise_kernel, (batch * tiles_y * tiles_x * blocks,), arguments


def run(x: Tensor, weight: Tensor, bias: Tensor, *, residual: bool) -> Tensor:
    """Return the convolution, or its sum with ``x``, (B, C, H, W), channels innermost."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    out = empty_map(x, torch.promote_types(dtype, x.dtype) if residual else dtype)
    if not out.numel():
        return out
    taps, bias = weight.flatten(1).t().contiguous(), bias.contiguous()
    key = "depthwise conv", *map(kind, (x, taps, bias)), out.dtype, residual
    (launch,) = repeated(key, lambda: [forward_launch(out, x, taps, bias, residual=residual)])
    with on_device(x):
        launch(x=x, weight=taps, bias=bias, out=out)
    return out
