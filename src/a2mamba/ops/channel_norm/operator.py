"""The public LayerNorm over channels: dispatch.

It is not registered with torch.library: where a graph is recorded, PyTorch's own operation runs, which compilers fuse.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from a2mamba.ops.channel_norm import comparison, reference
from a2mamba.ops.dispatch import Backend, Choice, always, explain, select, triton_missing


def _triton_why_not(*arguments: Any) -> str | None:
    missing = triton_missing(arguments[0])
    if missing is not None:
        return missing
    from a2mamba.ops.channel_norm import triton_impl

    return triton_impl.why_not(*arguments) or comparison.triton(arguments[0].device)


def _triton_run(*arguments: Any) -> Tensor:
    from a2mamba.ops.channel_norm import triton_impl

    return triton_impl.run(*arguments)


BACKENDS = (
    Backend("triton", _triton_why_not, _triton_run),
    Backend("torch", always, reference.channel_norm),
)
"""In order of preference. All take (x, weight, bias, eps, dtype)."""


def channel_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-6,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return the LayerNorm over the channels of every position (SPEC section 3).

    Args:
        x: (B, C, H, W), any floating dtype.
        weight, bias: (C,).
        eps: added to the variance.
        dtype: of the result; None is what PyTorch's operation returns: that of ``x``, float32 under autocast.
        backend: "triton" or "torch"; None takes the first that can run.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() != 4 or weight.shape != x.shape[1:2] or bias.shape != x.shape[1:2]:
        raise ValueError(
            "x, weight and bias must be (B, C, H, W), (C,) and (C,), got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    arguments = (x, weight, bias, eps, dtype)
    return select("channel_norm", BACKENDS, backend, arguments).run(*arguments)


def explain_backends(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(BACKENDS, arguments)
