"""The public GELU with a depthwise convolution: checks and dispatch.

It is not registered with torch.library: where a graph is recorded, a backend made of PyTorch's own operations runs, and
so it does where a gradient of the residual convolution is, or on GPUs any gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from a2mamba.ops.dispatch import (
    Backend,
    Choice,
    always,
    explain,
    select,
    triton_missing,
    unfit_at_inference,
    unfit_for_maps,
    untraced,
)
from a2mamba.ops.feed_forward import comparison, numba_impl, reference, torch_impl
from a2mamba.ops.precision import in_half_precision


def _gelu_why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    objection = unfit_for_maps(x.shape[1], x, weight, bias)
    if objection is None and not untraced(x):
        objection = "a graph or something that watches needs the operations one by one"
    if objection is None and x.dtype == torch.float32 and in_half_precision(x):
        objection = "autocast is on, and wants the convolution in 16 bits"
    return objection or comparison.gelu_depthwise(x.device)


def _residual_why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    if weight.shape[-1] != 3:
        return f"the kernel must be 3 x 3, got {weight.shape[-1]} x {weight.shape[-1]}"
    if not in_half_precision(x):
        return "in float32 PyTorch's convolution makes one pass too"
    return unfit_at_inference(x.shape[1], x, weight, bias) or comparison.residual_depthwise(x.device)


def _triton_why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    missing = triton_missing(x)
    if missing is not None:
        return missing
    from a2mamba.ops.depthwise import comparison, triton_impl

    return triton_impl.why_not(x, weight, bias) or comparison.triton(x.device)


def _triton_residual(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    from a2mamba.ops.depthwise import triton_impl

    return triton_impl.run(x, weight, bias, residual=True)


def _triton_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    # A tap of the kernel would compute GELU again for every neighbor, which costs more than a pass.
    return _triton_residual(F.gelu(x), weight, bias)


RESIDUAL = (
    Backend("triton", _triton_why_not, _triton_residual),
    Backend("numba", _residual_why_not, numba_impl.residual_depthwise),
    Backend("torch", always, torch_impl.residual_depthwise),
    Backend("reference", always, reference.residual_depthwise),
)
BACKENDS = (
    Backend("triton", _triton_why_not, _triton_gelu),
    Backend("numba", _gelu_why_not, numba_impl.forward),
    Backend("torch", always, torch_impl.forward),
    Backend("reference", always, reference.gelu_depthwise),
)
"""In order of preference."""


def gelu_depthwise(x: Tensor, weight: Tensor, bias: Tensor, *, backend: str | None = None) -> Tensor:
    """Return y + depthwise_conv(y) for y = gelu(x): the middle of a feed-forward network (docs/network.md, section 3).

    Args:
        x: (B, C, H, W), any floating dtype.
        weight: (C, 1, 3, 3); the map is padded with zeros.
        bias: (C,).
        backend: "triton", "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        (B, C, H, W) in the dtype of ``x``; GELU is the exact one.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() != 4 or weight.shape != (x.shape[1], 1, 3, 3) or bias.shape != x.shape[1:2]:
        raise ValueError(
            "x, weight and bias must be (B, C, H, W), (C, 1, 3, 3) and (C,), got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    arguments = (x, weight, bias)
    return select("gelu_depthwise", BACKENDS, backend, arguments).run(*arguments)


def residual_depthwise(x: Tensor, weight: Tensor, bias: Tensor, *, backend: str | None = None) -> Tensor:
    """Return x + depthwise_conv(x): the positional convolution of a block (docs/network.md, section 3).

    Args:
        x: (B, C, H, W), any floating dtype.
        weight: (C, 1, K, K), K odd; the map is padded with zeros.
        bias: (C,).
        backend: "triton", "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        (B, C, H, W) in the dtype of ``x``.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() != 4 or weight.dim() != 4 or len(weight) != x.shape[1] or bias.shape != x.shape[1:2]:
        raise ValueError(
            "x, weight and bias must be (B, C, H, W), (C, 1, K, K) and (C,), got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    arguments = (x, weight, bias)
    return select("residual_depthwise", RESIDUAL, backend, arguments).run(*arguments)


def explain_residual(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(RESIDUAL, arguments)


def explain_backends(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(BACKENDS, arguments)
