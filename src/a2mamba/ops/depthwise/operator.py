"""The public depthwise convolution: dispatch.

It is not registered with torch.library: where a graph is recorded, PyTorch's own operation runs, and so it does on GPUs
where a gradient is.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from a2mamba.ops.depthwise import comparison, numba_impl, reference
from a2mamba.ops.dispatch import Backend, Choice, always, explain, select, triton_missing


def _triton_why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    missing = triton_missing(x)
    if missing is not None:
        return missing
    from a2mamba.ops.depthwise import triton_impl

    return triton_impl.why_not(x, weight, bias) or comparison.triton(x.device)


def _triton_run(x: Tensor, weight: Tensor, bias: Tensor, *, silu: bool = False) -> Tensor:
    from a2mamba.ops.depthwise import triton_impl

    return triton_impl.run(x, weight, bias, residual=False, silu=silu)


def _numba_why_not(x: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    return numba_impl.why_not(x, weight, bias) or comparison.numba(x.device)


BACKENDS = (
    Backend("triton", _triton_why_not, _triton_run),
    Backend("numba", _numba_why_not, numba_impl.run),
    Backend("torch", always, reference.depthwise_conv),
)
"""In order of preference. All take (x, weight, bias); "triton" applies SiLU in the same pass."""


def depthwise_conv(
    x: Tensor, weight: Tensor, bias: Tensor, *, silu: bool = False, backend: str | None = None
) -> Tensor:
    """Return the depthwise convolution of a map padded with zeros, or SiLU of it.

    ``feed_forward.residual_depthwise`` is its sum with the map.

    Args:
        x: (B, C, H, W), any floating dtype.
        weight: (C, 1, K, K), K odd.
        bias: (C,).
        silu: return x * sigmoid(x) of the convolution.
        backend: "triton", "numba" (5 x 5 kernels whose gradient is wanted) or "torch"; None takes the first that can
            run.

    Returns:
        (B, C, H, W), in the dtype of ``x`` or in that of autocast.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    size = weight.shape[-1]
    if x.dim() != 4 or weight.shape != (x.shape[1], 1, size, size) or size % 2 == 0 or bias.shape != x.shape[1:2]:
        raise ValueError(
            "x, weight and bias must be (B, C, H, W), (C, 1, K, K) with K odd, and (C,), got "
            f"{tuple(x.shape)}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    arguments = (x, weight, bias)
    chosen = select("depthwise_conv", BACKENDS, backend, arguments)
    if not silu:
        return chosen.run(*arguments)
    return chosen.run(*arguments, silu=True) if chosen.name == "triton" else F.silu(chosen.run(*arguments))


def explain_backends(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(BACKENDS, arguments)
