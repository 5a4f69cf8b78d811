"""LayerNorm over channels on GPUs: launches of ``triton_kernels.py``, checks, autograd."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from a2mamba.ops.channel_norm import triton_kernels as kernels
from a2mamba.ops.dispatch import unfit, untraced
from a2mamba.ops.triton_launch import Launch, kind, on_device, remembered, repeated
from a2mamba.ops.triton_maps import empty_map, position_stride, unfit_maps

ELEMENTS = 2048
"""Numbers of a program at a time: 16 for each of 128 threads."""

MAX_CHANNELS = 1024
"""More would leave a program less than two rows, and the registers of a thread no room."""

PROGRAMS = 1024
"""Programs of the backward, at most: each sums the gradients of weight and bias over its rows."""


def why_not(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None) -> str | None:
    """Return why these kernels cannot run the arguments of ``operator.channel_norm``, or None."""
    if not untraced(x):
        return "a graph or something that watches needs PyTorch's operation"
    return _unfit(x, weight, bias)


@remembered
def _unfit(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    if not 0 < x.shape[1] <= MAX_CHANNELS:
        return f"maps have 1 to {MAX_CHANNELS} channels, got {x.shape[1]}"
    return unfit(x=x, weight=weight, bias=bias) or unfit_maps(x=x)


def _block(x: Tensor) -> dict[str, int]:
    padded = max(16, triton.next_power_of_2(x.shape[1]))
    return {"C": x.shape[1], "C_PAD": padded, "ROWS": ELEMENTS // padded, "num_warps": 4}


def forward_launch(
    out: Tensor, means: Tensor, scales: Tensor, x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, keep: bool
) -> Launch:
    """Launch that fills ``out`` and, with ``keep``, the means and inverse deviations of the positions."""
    rows, block = x.numel() // x.shape[1], _block(x)
    arguments = {
        "x": x,
        "weight": weight,
        "bias": bias,
        "out": out,
        "means": means,
        "scales": scales,
        "rows": rows,
        "x_p": position_stride(x),
        "eps": float(eps),
        "KEEP": keep,
        **block,
    }
    return kernels.channel_norm_kernel, (triton.cdiv(rows, block["ROWS"]),), arguments


def backward_launch(grad_x: Tensor, grad: Tensor, x: Tensor, weight: Tensor, means: Tensor, scales: Tensor) -> Launch:
    """Launch that fills ``grad_x`` and its arguments "grad_weight" and "grad_bias" (programs, C), float32."""
    rows, block = x.numel() // x.shape[1], _block(x)
    blocks = triton.cdiv(rows, block["ROWS"])
    per_program = triton.cdiv(blocks, PROGRAMS) * block["ROWS"]
    programs = triton.cdiv(rows, per_program)
    shares = torch.empty((2, programs, x.shape[1]), dtype=torch.float32, device=x.device)
    arguments = {
        "grad": grad,
        "x": x,
        "weight": weight,
        "means": means,
        "scales": scales,
        "grad_x": grad_x,
        "grad_weight": shares[0],
        "grad_bias": shares[1],
        "rows": rows,
        "rows_per_program": per_program,
        "grad_p": position_stride(grad),
        "x_p": position_stride(x),
        **block,
    }
    return kernels.channel_norm_backward_kernel, (programs,), arguments


def _normalize(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the norm in ``dtype`` and, with ``keep``, what its backward needs of the positions; else empty tensors."""
    out = empty_map(x, dtype)
    rows = x.numel() // x.shape[1] if keep else 0
    means, scales = torch.empty((2, rows), dtype=torch.float32, device=x.device)
    if not out.numel():
        return out, means, scales
    weight, bias = weight.contiguous(), bias.contiguous()
    key = "channel norm", *map(kind, (x, weight, bias, means, scales)), dtype, eps, keep
    (launch,) = repeated(key, lambda: [forward_launch(out, means, scales, x, weight, bias, eps, keep=keep)])
    with on_device(x):
        launch(x=x, weight=weight, bias=bias, out=out, means=means, scales=scales)
    return out, means, scales


class _ChannelNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        out, means, scales = _normalize(x, weight, bias, eps, dtype, keep=True)
        ctx.save_for_backward(x, weight, means, scales)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, scales = ctx.saved_tensors
        grad_x = empty_map(x, x.dtype)
        if not x.numel():
            return grad_x, torch.zeros_like(weight), torch.zeros_like(weight), None, None
        if position_stride(x) is None:  # a hook that keeps tensors elsewhere may hand back another layout
            x = x.contiguous(memory_format=torch.channels_last)
        if position_stride(grad) is None:
            grad = grad.contiguous(memory_format=torch.channels_last)
        factor, means, scales = weight.contiguous(), means.contiguous(), scales.contiguous()
        key = "channel norm backward", *map(kind, (grad, x, factor, means, scales))
        (launch,) = repeated(key, lambda: [backward_launch(grad_x, grad, x, factor, means, scales)])
        shares = torch.empty((2, *launch.shapes["grad_weight"]), dtype=torch.float32, device=x.device)
        with on_device(x):
            launch(
                grad=grad,
                x=x,
                weight=factor,
                means=means,
                scales=scales,
                grad_x=grad_x,
                grad_weight=shares[0],
                grad_bias=shares[1],
            )
        grad_weight, grad_bias = shares.sum(1).to(weight.dtype)
        return grad_x, grad_weight, grad_bias, None, None


def run(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None) -> Tensor:
    """Return the norm (B, C, H, W); arguments as in ``operator.channel_norm``."""
    if dtype is None:
        dtype = torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad or bias.requires_grad):
        return _ChannelNorm.apply(x, weight, bias, eps, dtype)
    return _normalize(x, weight, bias, eps, dtype, keep=False)[0]
