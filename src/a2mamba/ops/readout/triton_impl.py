"""The readout and the gated norm on GPUs, at inference: launches of ``triton_kernels.py`` and checks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor, nn

from a2mamba.ops.dispatch import unfit, unhooked
from a2mamba.ops.readout import triton_kernels as kernels
from a2mamba.ops.triton_launch import Launch, kind, on_device, remembered, repeated
from a2mamba.ops.triton_maps import empty_map, position_stride, unfit_maps, watched

Affine = tuple[Tensor, Tensor]
Constants = tuple[Tensor, Tensor, Tensor, Tensor]
"""Mean, variance, weight and bias of a norm whose statistics do not change."""

ELEMENTS = 2048
"""Numbers of a program: 16 for each of 128 threads."""

MAX_CHANNELS = 1024
"""More would leave a program less than two rows, and the registers of a thread no room."""


def read_out_why_not(
    states: Sequence[Tensor], weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> str | None:
    """Return why these kernels cannot run the arguments of ``operator.read_out``, or None."""
    if len(states) != 2 or states[0].shape != states[1].shape:
        return f"the states must be two equal halves of the heads, got {[tuple(half.shape) for half in states]}"
    return watched(u) or _unfit_read_out(*states, weight, bias, readout, u, skip)


@remembered
def _unfit_read_out(
    first: Tensor, second: Tensor, weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> str | None:
    objection = unfit(first=first, second=second, weight=weight, bias=bias, readout=readout, u=u, skip=skip)
    objection = objection or _unfit_width(u.shape[1])
    return objection or unfit_maps(first=_map(first), second=_map(second), readout=readout[:, None], u=u)


def gated_norm_why_not(
    x: Tensor, added: Tensor, gate: Tensor, gate_norm: nn.Module, norm: nn.LayerNorm, out_norm: nn.LayerNorm
) -> str | None:
    """Return why these kernels cannot run the arguments of ``operator.gated_norm``, or None; the norms are checked."""
    return watched(x) or _unfit_gated_norm(x, added, gate, norm.weight, norm.bias, out_norm.weight, out_norm.bias)


@remembered
def _unfit_gated_norm(
    x: Tensor, added: Tensor, gate: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor
) -> str | None:
    objection = unfit(x=x, added=added, gate=gate, weight=weight, bias=bias, out_weight=out_weight, out_bias=out_bias)
    return objection or _unfit_width(x.shape[1]) or unfit_maps(x=x, added=added, gate=gate)


def _unfit_width(channels: int) -> str | None:
    return None if 0 < channels <= MAX_CHANNELS else f"maps have 1 to {MAX_CHANNELS} channels, got {channels}"


def _map(states: Tensor) -> Tensor:
    """(B, G, H, W, d) -> (B, G * d, H, W), a view where the heads of a position lie side by side."""
    return states.permute(0, 2, 3, 1, 4).flatten(-2).permute(0, 3, 1, 2)


def read_out_launch(
    out: Tensor, first: Tensor, second: Tensor, weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> Launch:
    """Launch that fills ``out``; the halves of the states are maps (B, C / 2, H, W)."""
    heads, channels = len(bias), u.shape[1]
    d = channels // heads
    heads_pad, d_pad = triton.next_power_of_2(heads), triton.next_power_of_2(d)
    rows = u.numel() // channels
    per_program = max(1, ELEMENTS // (heads_pad * d_pad))
    arguments = {
        "first": first,
        "second": second,
        "weight": weight,
        "bias": bias,
        "readout": readout,
        "u": u,
        "skip": skip,
        "out": out,
        "rows": rows,
        "first_p": position_stride(first),
        "second_p": position_stride(second),
        "readout_p": position_stride(readout[:, None]),
        "u_p": position_stride(u),
        "HEADS": heads,
        "HEADS_PAD": heads_pad,
        "D": d,
        "D_PAD": d_pad,
        "ROWS": per_program,
        "num_warps": 4,
    }
    return kernels.read_out_kernel, (triton.cdiv(rows, per_program),), arguments


def read_out(
    states: Sequence[Tensor], weight: Tensor, bias: Tensor, readout: Tensor, u: Tensor, skip: Tensor
) -> Tensor:
    """Return the readout (B, C, H, W), float32; arguments as in ``operator.read_out``."""
    out = empty_map(u, torch.float32)
    if not out.numel():
        return out
    first, second = states
    weight, bias, skip = weight.contiguous(), bias.contiguous(), skip.contiguous()
    key = "read out", *map(kind, (first, second, weight, bias, readout, u, skip))
    (launch,) = repeated(key, lambda: [read_out_launch(out, _map(first), _map(second), weight, bias, readout, u, skip)])
    with on_device(u):
        launch(first=first, second=second, weight=weight, bias=bias, readout=readout, u=u, skip=skip, out=out)
    return out


def gated_norm_launch(
    out: Tensor,
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    gate_norm: Constants | None,
    norm: Affine,
    out_norm: Affine,
    gate_eps: float,
    eps: float,
) -> Launch:
    """Launch that fills ``out``; without a ``gate_norm`` the gate is normalized already."""
    channels = x.shape[1]
    rows = x.numel() // channels
    padded = max(16, triton.next_power_of_2(channels))
    per_program = ELEMENTS // padded
    arguments = {
        "x": x,
        "added": added,
        "gate": gate,
        # Without a norm any pointers do: they are never read.
        **_named(gate_norm or (*norm, *norm)),
        "weight": norm[0],
        "bias": norm[1],
        "out_weight": out_norm[0],
        "out_bias": out_norm[1],
        "out": out,
        "rows": rows,
        "x_p": position_stride(x),
        "added_p": position_stride(added),
        "gate_p": position_stride(gate),
        "gate_eps": float(gate_eps),
        "eps": float(eps),
        "C": channels,
        "C_PAD": padded,
        "ROWS": per_program,
        "GATE_NORM": gate_norm is not None,
        "num_warps": 4,
    }
    return kernels.gated_norm_kernel, (triton.cdiv(rows, per_program),), arguments


def gated_norm(
    x: Tensor,
    added: Tensor,
    gate: Tensor,
    gate_norm: nn.Module,
    norm: nn.LayerNorm,
    out_norm: nn.LayerNorm,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the gated norm; arguments as in ``operator.gated_norm``."""
    out = empty_map(x, out_norm.weight.dtype if dtype is None else dtype)
    if not out.numel():
        return out
    constants = _constants(gate_norm)
    if constants is None:
        gate = gate_norm(gate)
        if position_stride(gate) is None:
            gate = gate.contiguous(memory_format=torch.channels_last)
    weight, bias, out_weight, out_bias = (
        each.contiguous() for each in (norm.weight, norm.bias, out_norm.weight, out_norm.bias)
    )
    eps, gate_eps = norm.eps, gate_norm.eps if isinstance(gate_norm, nn.BatchNorm2d) else 0.0
    tensors = x, added, gate, weight, bias, out_weight, out_bias, *(constants or ())
    key = "gated norm", *map(kind, tensors), eps, gate_eps, out.dtype

    def launches() -> list[Launch]:
        affines = (weight, bias), (out_weight, out_bias)
        return [gated_norm_launch(out, x, added, gate, constants, *affines, gate_eps, eps)]

    (launch,) = repeated(key, launches)
    with on_device(x):
        launch(
            x=x,
            added=added,
            gate=gate,
            **_named(constants or (weight, bias, weight, bias)),
            weight=weight,
            bias=bias,
            out_weight=out_weight,
            out_bias=out_bias,
            out=out,
        )
    return out


def _constants(norm: nn.Module) -> Constants | None:
    """Return what a gate's norm consists of; None where it must be called, or is nn.Identity."""
    if not isinstance(norm, nn.BatchNorm2d) or norm.training or not norm.affine or not unhooked(norm):
        return None
    if norm.running_mean is None or norm.running_var is None:
        return None
    found = norm.running_mean, norm.running_var, norm.weight, norm.bias
    if _unfit_vectors(*found) is not None:
        return None
    return found[0].contiguous(), found[1].contiguous(), found[2].contiguous(), found[3].contiguous()


@remembered
def _unfit_vectors(mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor) -> str | None:
    return unfit(mean=mean, variance=variance, weight=weight, bias=bias)


def _named(constants: Constants) -> dict[str, Tensor]:
    """Return the constants of a gate's norm under the names of the kernel's arguments."""
    mean, variance, weight, bias = constants
    return {"gate_mean": mean, "gate_variance": variance, "gate_weight": weight, "gate_bias": bias}
