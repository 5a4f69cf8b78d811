"""The public readout and gated norm: checks and dispatch.

Nothing here is registered with torch.library: where a graph or a gradient is recorded, a backend made of PyTorch's own
operations runs, and compilers fuse those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from a2mamba.ops.dispatch import Backend, Choice, always, explain, select, triton_missing, unfit_at_inference, unhooked
from a2mamba.ops.readout import comparison, numba_impl, reference, torch_impl


def _read_out_why_not(states: Sequence[Tensor], *others: Tensor) -> str | None:
    if len(states) != 2 or states[0].shape != states[1].shape:
        return f"the states must be two equal halves of the heads, got {[tuple(half.shape) for half in states]}"
    objection = unfit_at_inference(states[0].shape[-1], *states, *others)
    return objection or comparison.read_out(states[0].device)


def _unfit_norms(x: Tensor, norm: nn.LayerNorm, out_norm: nn.LayerNorm, vectors: Sequence[Tensor | None]) -> str | None:
    """Return why the norms of ``x`` cannot be taken for ``vectors``, weight and bias of each, and epsilons, or None."""
    weight, bias, out_weight, out_bias = vectors
    if (
        not (isinstance(norm, nn.LayerNorm) and isinstance(out_norm, nn.LayerNorm))
        or (weight is None or bias is None)
        or (out_weight is None or out_bias is None)
    ):
        kinds = [type(each).__name__ for each in (norm, out_norm)]
        return f"the norms must be LayerNorms with weight and bias, got {kinds}"
    channels = x.shape[1:2]
    if not weight.shape == bias.shape == out_weight.shape == out_bias.shape == channels:
        shapes = [tuple(each.shape) for each in (weight, bias, out_weight, out_bias)]
        return f"weights and biases must have shape {tuple(channels)}, got {shapes}"
    if weight.dtype != out_weight.dtype:
        return f"the norms must share a dtype, got {weight.dtype} and {out_weight.dtype}"
    if norm.eps != out_norm.eps:
        return f"the norms must share what is added to variances, got {norm.eps} and {out_norm.eps}"
    return None if unhooked(norm) and unhooked(out_norm) else "a forward hook waits for the call of a norm"


def _unfit_gate_norm(x: Tensor, norm: nn.Module, vectors: Sequence[Tensor | None]) -> str | None:
    """Return why the norm of a gate is not a weight and a bias a channel, made of its ``vectors``, or None."""
    if isinstance(norm, nn.Identity):
        return None if unhooked(norm) else "a forward hook waits for the call of a norm"
    weight, bias, mean, variance = vectors
    if not isinstance(norm, _BatchNorm) or weight is None or bias is None or mean is None or variance is None:
        return f"the gate's norm must be a BatchNorm with weight, bias and statistics, got {type(norm).__name__}"
    if norm.training or weight.shape != x.shape[1:2]:
        return f"the gate's norm must be in evaluation mode and have {x.shape[1]} channels, got {norm}"
    return None if unhooked(norm) else "a forward hook waits for the call of a norm"


def _gated_norm_why_not(
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    gate_norm: nn.Module,
    norm: nn.LayerNorm,
    out_norm: nn.LayerNorm,
    dtype: torch.dtype | None = None,
) -> str | None:
    vectors = numba_impl.parameters(gate_norm, norm, out_norm)
    objection = _unfit_gate_norm(x, gate_norm, vectors[4:]) or _unfit_norms(x, norm, out_norm, vectors[:4])
    objection = objection or unfit_at_inference(x.shape[1], x, added, gate, *vectors)
    return objection or comparison.gated_norm(x.device)


def _read_out_triton_why_not(states: Sequence[Tensor], *others: Tensor) -> str | None:
    missing = triton_missing(states[0])
    if missing is not None:
        return missing
    from a2mamba.ops.readout import triton_impl

    return triton_impl.read_out_why_not(states, *others) or comparison.read_out_triton(states[0].device)


def _read_out_triton(*arguments: Any) -> Tensor:
    from a2mamba.ops.readout import triton_impl

    return triton_impl.read_out(*arguments)


def _gated_norm_triton_why_not(
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    gate_norm: nn.Module,
    norm: nn.LayerNorm,
    out_norm: nn.LayerNorm,
    dtype: torch.dtype | None = None,
) -> str | None:
    missing = triton_missing(x)
    if missing is not None:
        return missing
    from a2mamba.ops.readout import triton_impl

    vectors = [getattr(each, name, None) for each in (norm, out_norm) for name in ("weight", "bias")]
    objection = _unfit_norms(x, norm, out_norm, vectors)
    objection = objection or triton_impl.gated_norm_why_not(x, added, gate, gate_norm, norm, out_norm)
    return objection or comparison.gated_norm_triton(x.device)


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
    Backend("torch", always, torch_impl.gated_norm),
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
    """Mix aggregated states over the heads and read them out (docs/network.md, section 6).

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
    heads = sum([half.shape[1] for half in states])
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
    gate_norm: nn.Module,
    norm: nn.LayerNorm,
    out_norm: nn.LayerNorm,
    *,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Normalize over the channels, add, multiply, and normalize again: the end of a mixer (docs/network.md, section 4).

    Args:
        x: (B, C, H, W).
        added: position encoding, shape of ``x``; like ``x`` and the gate of any dtype.
        gate: shape of ``x``, before its norm and activation.
        gate_norm: a BatchNorm2d, or nn.Identity where it was folded.
        norm, out_norm: modules that normalize such maps over their channels, as timm's LayerNorm2d. The norms are
            called where a hook waits for it; otherwise their parameters and buffers may be all that is used.
        dtype: of the result; None is that of the norms' weights.
        backend: "triton", "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        (B, C, H, W): out_norm((norm(x) + added) * silu(gate_norm(gate))).

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() != 4 or x.shape != added.shape or x.shape != gate.shape:
        raise ValueError(
            "x, added and gate must have one shape (B, C, H, W), got "
            f"{tuple(x.shape)}, {tuple(added.shape)} and {tuple(gate.shape)}"
        )
    arguments = (x, added, gate, gate_norm, norm, out_norm, dtype)
    return select("gated_norm", GATED_NORM, backend, arguments).run(*arguments)


def explain_read_out(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(READ_OUT, arguments)


def explain_gated_norm(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(GATED_NORM, arguments)
