"""The public positional convolution with the norm behind it: checks and dispatch.

It is not registered with torch.library: where a graph or a gradient is recorded, the modules are called one by one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from a2mamba.ops.dispatch import Backend, Choice, always, explain, select, unfit_at_inference, unhooked
from a2mamba.ops.positional import comparison, numba_impl, reference, torch_impl


def _numba_why_not(x: Tensor, branch: Tensor | None, skip: nn.Module, pos: nn.Conv2d, norm: nn.LayerNorm) -> str | None:
    channels = x.shape[1]
    parameters = weight, bias, norm_weight, norm_bias, *affine = numba_impl.parameters(skip, pos, norm)
    if not isinstance(norm, nn.LayerNorm) or norm_weight is None or norm_bias is None:
        return f"the norm must be a LayerNorm with weight and bias, got {type(norm).__name__}"
    if weight is None or bias is None or weight.shape != (channels, 1, 3, 3):
        shape = None if weight is None else tuple(weight.shape)
        return f"the convolution must be ({channels}, 1, 3, 3) with bias, got {shape}"
    if affine and (affine[0] is None or affine[1] is None):
        return f"the shortcut's module must have a weight and a bias, got {type(skip).__name__}"
    objection = unfit_at_inference(channels, x, *parameters, *(() if branch is None else (branch,)))
    if objection is None and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") != torch.bfloat16:
        objection = f"the dtype of autocast must be bfloat16, got {torch.get_autocast_dtype('cpu')}"
    if objection is None and not (unhooked(pos) and unhooked(norm) and unhooked(skip)):
        objection = "a forward hook waits for the call of a module"
    return objection or comparison.positional_norm(x.device)


BACKENDS = (
    Backend("numba", _numba_why_not, numba_impl.positional_norm),
    Backend("torch", always, torch_impl.positional_norm),
    Backend("reference", always, reference.positional_norm),
)
"""In order of preference."""


def positional_norm(
    x: Tensor,
    branch: Tensor | None,
    skip: nn.Module,
    pos: nn.Conv2d,
    norm: nn.LayerNorm,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return y + depthwise_conv(y) for y = skip(x) + branch, and its LayerNorm (docs/network.md, section 3).

    Args:
        x: (B, C, H, W), any floating dtype.
        branch: shape of ``x``, of any dtype; None where y is ``x`` itself.
        skip: nn.Identity, or a module that computes weight * x + bias with its parameters (C,).
        pos: computes y + depthwise_conv(y) with its weight (C, 1, 3, 3) and bias (C,).
        norm: normalizes such maps over their channels, as timm's LayerNorm2d. Modules are called where a hook waits for
            it; otherwise their parameters may be all that is used.
        backend: "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        Two maps (B, C, H, W). What follows the second are products alone, so that under autocast it may have that
        dtype at once.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() != 4 or (branch is not None and branch.shape != x.shape):
        raise ValueError(
            "x and branch must have one shape (B, C, H, W), got "
            f"{tuple(x.shape)} and {None if branch is None else tuple(branch.shape)}"
        )
    arguments = (x, branch, skip, pos, norm)
    return select("positional_norm", BACKENDS, backend, arguments).run(*arguments)


def explain_backends(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(BACKENDS, arguments)
