"""The public selective scan: checks, torch.library registration, dispatch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from a2mamba.ops.dispatch import (
    Backend,
    Choice,
    always,
    explain,
    not_plain,
    portable,
    select,
    triton_missing,
    unwatched,
)
from a2mamba.ops.registration import register, shielded
from a2mamba.ops.selective_scan import comparison, numba_impl, reference, torch_impl

_ARGUMENTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor? delta_bias, bool delta_softplus"


def _channels_innermost(like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty (B, C, L) whose memory is (B, L, C), as the implementation's."""
    return like.new_empty(like.shape[0], like.shape[2], like.shape[1], dtype=dtype).transpose(1, 2)


def _fake_gradients(
    grad: Tensor, states: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, _: bool
) -> tuple[Tensor, ...]:
    bias_dtype = states.dtype if delta_bias is None else delta_bias.dtype
    return (
        _channels_innermost(u, u.dtype),
        _channels_innermost(delta, delta.dtype),
        torch.empty_like(A),
        B.new_empty(B.shape),
        A.new_empty(A.shape, dtype=bias_dtype),
    )


def _fake(u: Tensor, *others: Any) -> Tensor:
    return _channels_innermost(u, reference.state_dtype(u))


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, delta_softplus = inputs
    ctx.save_for_backward(output, *tensors)
    ctx.delta_softplus = delta_softplus


def _define(name: str, implementation: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    """Register the forward of an implementation under a name, and its gradient."""
    backward = register(
        f"{name}_backward",
        f"(Tensor grad, Tensor states, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
        shielded(implementation, "backward"),
        _fake_gradients,
    )

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, u, delta, A, B, delta_bias = ctx.saved_tensors
        *grads, grad_bias = backward(grad, states, u, delta, A, B, delta_bias, ctx.delta_softplus)
        return *grads, None if delta_bias is None else grad_bias, None

    # The recurrence is float32 whatever surrounds it.
    forward = shielded(implementation, "forward")
    return register(name, f"({_ARGUMENTS}) -> Tensor", forward, _fake, differentiate, _setup_context)


_forward = _define("a2mamba::selective_scan_state", lambda u: torch_impl)
_numba_forward = _define("a2mamba::selective_scan_state_numba", lambda u: portable(u, numba_impl, torch_impl))


def _torch_why_not(*arguments: Any) -> str | None:
    return not_plain(*arguments[:5])


def _numba_run(*arguments: Any) -> Tensor:
    if unwatched(arguments[0]):
        # Without a context that turns autocast off: it costs as much as a short scan, and no operation there heeds it.
        return numba_impl.forward(*arguments)
    return _numba_forward(*arguments)


def _numba_why_not(*arguments: Any) -> str | None:
    return numba_impl.why_not(*arguments) or comparison.numba(arguments[0].device)


def _triton_run(*arguments: Any) -> Tensor:
    from a2mamba.ops.selective_scan import triton_impl

    return triton_impl.run(*arguments)


def _triton_why_not(*arguments: Any) -> str | None:
    missing = triton_missing(arguments[0])
    if missing is not None:
        return missing
    from a2mamba.ops.selective_scan import triton_impl

    return triton_impl.why_not(*arguments) or comparison.triton(arguments[0].device)


BACKENDS = (
    Backend("triton", _triton_why_not, _triton_run),
    Backend("numba", _numba_why_not, _numba_run),
    Backend("torch", _torch_why_not, _forward),
    Backend("reference", always, reference.selective_scan_state),
)
"""In order of preference. All take (u, delta, A, B as (B, N, L), delta_bias, delta_softplus); "triton" a dtype too."""


def selective_scan_state(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None = None,
    *,
    delta_softplus: bool = True,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Return the hidden states of a selective state-space model whose state is one number a channel.

    h_t = exp(A * step_t) h_{t-1} + step_t B_t u_t from h_0 = 0, with step = softplus(delta + delta_bias). The
    recurrence runs in float32 whatever the inputs and autocast say (float64 for float64), in O(L) memory.

    Args:
        u: inputs (B, C, L), any floating dtype.
        delta: step sizes before bias and softplus, shape of ``u``.
        A: (C,), negative.
        B: input projection (B, L), shared by all channels, or (B, N, L), row n for the n-th C / N channels.
        delta_bias: (C,) or None.
        delta_softplus: apply softplus (linear above 20) to the biased step; otherwise it is used as it is.
        dtype: of the result, to which the states are rounded in the end; None is float32 (float64 if ``u`` is).
        backend: "triton", "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        (B, C, L) states.

    Raises:
        ValueError: for shapes, dtypes or a backend that do not fit, naming what was found.
    """
    _check(u, delta, A, B, delta_bias)
    arguments = (u, delta, A, B[:, None] if B.dim() == 2 else B, delta_bias, delta_softplus)
    chosen = select("selective_scan_state", BACKENDS, backend, arguments)
    if dtype is None:
        return chosen.run(*arguments)
    # Only Triton's kernels can store what they computed in another dtype.
    return chosen.run(*arguments, dtype) if chosen.name == "triton" else chosen.run(*arguments).to(dtype)


def explain_backends(u: Tensor) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run ``u`` (B, C, L), or None."""
    return explain(BACKENDS, (u, u, u[0, :, 0], u[:, :1], None, True))


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None) -> None:
    if u.dim() != 3 or u.shape != delta.shape:
        raise ValueError(f"u and delta must have one shape (B, C, L), got {tuple(u.shape)} and {tuple(delta.shape)}")
    batch, channels, length = u.shape
    if length < 1:
        raise ValueError("the sequence must have at least one token, got length 0")
    if A.shape != (channels,):
        raise ValueError(f"A must have shape ({channels},), one number a channel, got {tuple(A.shape)}")
    groups = B.shape[1] if B.dim() == 3 else 1
    if B.dim() not in (2, 3) or B.shape[0] != batch or B.shape[-1] != length or groups < 1 or channels % groups:
        raise ValueError(
            f"B must be ({batch}, {length}) or ({batch}, N, {length}) with N dividing {channels}, got {tuple(B.shape)}"
        )
    if delta_bias is not None and delta_bias.shape != (channels,):
        raise ValueError(f"delta_bias must have shape ({channels},), got {tuple(delta_bias.shape)}")
    if not u.is_floating_point() or not delta.is_floating_point():
        raise ValueError(f"u and delta must be floating point, got {u.dtype} and {delta.dtype}")
