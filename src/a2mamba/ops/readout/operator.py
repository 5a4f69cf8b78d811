"""The public readout and gated norm: checks and dispatch.

Nothing here is registered with torch.library: where a graph or a gradient is recorded, a backend made of PyTorch's own
operations runs, and compilers fuse those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from a2mamba.ops import self_test
from a2mamba.ops.dispatch import Backend, Choice, always, explain, select, triton_missing, unfit_at_inference
from a2mamba.ops.readout import numba_impl, reference, torch_impl

Affine = tuple[Tensor, Tensor]


def _read_out_why_not(states: Sequence[Tensor], *others: Tensor) -> str | None:
    if len(states) != 2 or states[0].shape != states[1].shape:
        return f"the states must be two equal halves of the heads, got {[tuple(half.shape) for half in states]}"
    objection = unfit_at_inference(states[0].shape[-1], *states, *others)
    return objection or self_test.passed("read_out/numba", states[0].device)


def _gated_norm_why_not(
    x: Tensor, added: Tensor, gate: Tensor, norm: Affine, out_norm: Affine, eps: float
) -> str | None:
    objection = unfit_at_inference(x.shape[1], x, added, gate, *norm, *out_norm)
    return objection or self_test.passed("gated_norm/numba", x.device)


def _read_out_triton_why_not(states: Sequence[Tensor], *others: Tensor) -> str | None:
    missing = triton_missing(states[0])
    if missing is not None:
        return missing
    from a2mamba.ops.readout import triton_impl

    return triton_impl.read_out_why_not(states, *others) or self_test.passed("read_out", states[0].device)


def _read_out_triton(*arguments: Any) -> Tensor:
    from a2mamba.ops.readout import triton_impl

    return triton_impl.read_out(*arguments)


def _gated_norm_triton_why_not(*arguments: Any) -> str | None:
    missing = triton_missing(arguments[0])
    if missing is not None:
        return missing
    from a2mamba.ops.readout import triton_impl

    return triton_impl.gated_norm_why_not(*arguments) or self_test.passed("gated_norm", arguments[0].device)


def _gated_norm_triton(*arguments: Any) -> Tensor:
    from a2mamba.ops.readout import triton_impl

    return triton_impl.gated_norm(*arguments)


READ_OUT = (
    Backend("triton", _read_out_triton_why_not, _read_out_triton),
    Backend("numba", _read_out_why_not, numba_impl.read_out),
    Backend("torch", always, torch_impl.read_out),
    Backend("reference", always, reference.read_out),
)
GATED_NORM = (
    Backend("triton", _gated_norm_triton_why_not, _gated_norm_triton),
    Backend("numba", _gated_norm_why_not, numba_impl.gated_norm),
    Backend("reference", always, reference.gated_norm),
)
"""In order of preference."""


def read_out(
    states: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    readout: Tensor,
    u: Tensor,
    skip: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Mix aggregated states over the heads and read them out (SPEC section 6).

    Args:
        states: what the attention maps made of the hidden states: tensors (B, G_i, H, W, d) that make up all G heads.
        weight: (G, G) of the mixing.
        bias: (G,) of the mixing.
        readout: C_t of every position, (B, H, W).
        u: what the scan was given, (B, G * d, H, W).
        skip: D, (G * d,).
        backend: "triton", "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        (B, G * d, H, W), float32 at least: (sum_h weight[g, h] states_h + bias_g) * readout + skip * u.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    heads = sum(half.shape[1] for half in states)
    batch, channels, height, width = u.shape
    expected = (batch, height, width, channels // heads)
    for half in states:
        if half.dim() != 5 or (half.shape[0], *half.shape[2:]) != expected:
            raise ValueError(
                f"states must be (B, heads, H, W, d) with {expected} but the heads, got {tuple(half.shape)}"
            )
    for name, tensor, shape in (
        ("weight", weight, (heads, heads)),
        ("bias", bias, (heads,)),
        ("readout", readout, (batch, height, width)),
        ("skip", skip, (channels,)),
    ):
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    arguments = (tuple(states), weight, bias, readout, u, skip)
    return select("read_out", READ_OUT, backend, arguments).run(*arguments)


def gated_norm(
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    norm: Affine,
    out_norm: Affine,
    eps: float = 1e-6,
    *,
    backend: str | None = None,
) -> Tensor:
    """Normalize over the channels, add, multiply, and normalize again: the end of every mixer (SPEC section 4).

    Args:
        x: (B, C, H, W).
        added: position encoding, shape of ``x``.
        gate: shape of ``x``.
        norm, out_norm: weight and bias (C,) of the two norms.
        eps: added to both variances.
        backend: "triton", "numba" or "reference"; None takes the first that can run.

    Returns:
        (B, C, H, W): out_norm((norm(x) + added) * gate), in the dtype of the last norm's weight where a kernel runs.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() != 4 or x.shape != added.shape or x.shape != gate.shape:
        raise ValueError(
            "x, added and gate must have one shape (B, C, H, W), got "
            f"{tuple(x.shape)}, {tuple(added.shape)} and {tuple(gate.shape)}"
        )
    for tensor in (*norm, *out_norm):
        if tensor.shape != x.shape[1:2]:
            raise ValueError(f"weights and biases must have shape {tuple(x.shape[1:2])}, got {tuple(tensor.shape)}")
    arguments = (x, added, gate, norm, out_norm, eps)
    return select("gated_norm", GATED_NORM, backend, arguments).run(*arguments)


def explain_read_out(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(READ_OUT, arguments)


def explain_gated_norm(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(GATED_NORM, arguments)
