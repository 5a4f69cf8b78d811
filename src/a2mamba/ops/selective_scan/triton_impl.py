"""The selective scan on GPUs: launches of ``triton_kernels.py``, checks, torch.library registration.

Where batch and channels alone fill a GPU, one program walks a whole sequence and every input is read once. Elsewhere
the sequence is cut into chunks and read twice, once for what each chunk carries on: on a GPU that would otherwise
idle, the second reading costs less than the waiting. All sums over programs are taken by PyTorch in a fixed order.

A *launch* is (kernel, grid, keyword arguments). Building one needs shapes, strides and dtypes only, so the same
functions serve a run and the ahead-of-time compilation of ``benchmarks/triton_aot.py``.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from a2mamba.ops.dispatch import unfit, untraced, unwatched
from a2mamba.ops.selective_scan import triton_kernels as kernels
from a2mamba.ops.triton_launch import Launch, RepeatedLaunch, kind, on_device, remembered, repeated

TILE = 2048
"""Elements of a forward tile: 16 for each of 128 threads, so that the registers of a processor hold three or four
programs. The backward, which keeps twice as many numbers an element, takes half."""

PROGRAMS = 512
"""Programs that fill a GPU: four for each of 100 to 150 processors. With fewer, the sequence is cut."""

CHUNK_TILES = 4
"""Tiles of a chunk, at least: what a chunk stores for the others stays small beside what it reads."""


def why_not(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
) -> str | None:
    """Return why these kernels cannot run the arguments of ``reference.selective_scan_state``, or None."""
    check = _unfit_again if untraced(u) else _unfit
    return check(u, delta, A, B, delta_bias)


def _unfit(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None) -> str | None:
    if u.device.type != "cuda" and not (u.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"its kernels need a GPU, and the tensors are on {u.device.type}"
    objection = unfit(u=u, delta=delta, A=A, B=B, delta_bias=delta_bias)
    if objection is not None:
        return objection
    for name, tensor in (("u", u), ("delta", delta), ("A", A), ("B", B), ("delta_bias", delta_bias)):
        if tensor is None:
            continue
        if (
            sum((size - 1) * stride for size, stride in zip(tensor.shape[1:], tensor.stride()[1:], strict=True))
            >= 2**31
        ):
            return f"a sequence of {name} spans 2^31 elements or more"
    if math.prod(u.shape[1:]) >= 2**31:
        return "a sequence has 2^31 elements or more"
    return None


_unfit_again = remembered(_unfit)


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an empty (B, C, L) tensor with the axis of ``x`` innermost that is innermost in ``x``."""
    batch, channels, length = x.shape
    if x.stride(1) <= x.stride(2):
        return torch.empty((batch, length, channels), dtype=dtype, device=x.device).transpose(1, 2)
    return torch.empty((batch, channels, length), dtype=dtype, device=x.device)


def _common(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, bias: Tensor | None, softplus: bool, *, tile: int
) -> dict[str, Any]:
    """Return the arguments that the forward and the backward kernel share; A and the bias are contiguous."""
    batch, channels, length = u.shape
    groups = B.shape[1]
    group_channels = channels // groups
    # Threads lie along the axis that is contiguous: 64 channels, or 256 tokens, are whole cache lines.
    widest = 64 if u.stride(1) <= u.stride(2) else 8
    block_c = min(widest, max(4, triton.next_power_of_2(group_channels)))
    block_l = min(tile // widest, max(16, triton.next_power_of_2(length)))
    blocks = math.ceil(group_channels / block_c)
    chunk_length = length
    programs = batch * groups * blocks
    if programs < PROGRAMS:
        tiles = math.ceil(length / block_l)
        # Four times as many programs as needed, since a chunk more or less should not leave processors idle.
        chunk_length = block_l * max(CHUNK_TILES, math.ceil(tiles * programs / (4 * PROGRAMS)))
    arguments: dict[str, Any] = {
        "u": u,
        "delta": delta,
        "a": A,
        "b": B,
        # Without a bias any pointer does: it is never read.
        "bias": A if bias is None else bias,
        "channels": channels,
        "group_channels": group_channels,
        "length": length,
        "chunks": math.ceil(length / chunk_length),
        "chunk_length": chunk_length,
        "groups": groups,
        "blocks": blocks,
        "BLOCK_L": block_l,
        "BLOCK_C": block_c,
        "HAS_BIAS": bias is not None,
        "SOFTPLUS": softplus,
        "num_warps": 4,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
    for name, tensor in (("u", u), ("d", delta)):
        arguments.update(_strides(name, tensor))
    arguments.update(b_b=B.stride(0), b_n=B.stride(1), b_l=B.stride(2))
    return arguments


def _strides(name: str, x: Tensor) -> dict[str, int]:
    return dict(zip((f"{name}_{axis}" for axis in "bcl"), x.stride(), strict=True))


def _chunked(kernel: Any, arguments: dict[str, Any], device: torch.device, *, reverse: bool) -> list[Launch]:
    """Return the launches of a scan: one over whole sequences, or aggregate, carry and apply over chunks."""
    batch, chunks, channels = arguments["u"].shape[0], arguments["chunks"], arguments["channels"]
    grid = (batch * chunks * arguments["groups"] * arguments["blocks"],)
    if chunks == 1:
        # Neither is touched; the kernel takes any float32 pointers.
        unused = arguments["states"]
        single = dict(arguments, products=unused, lasts=unused, AGGREGATE=False, HAS_CARRY=False)
        return [(kernel, grid, single)]
    products, lasts, carries = torch.empty((3, batch, chunks, channels), dtype=torch.float32, device=device)
    carry_blocks = math.ceil(channels / 16)
    carry = {
        "products": products,
        "lasts": lasts,
        "carries": carries,
        "channels": channels,
        "chunks": chunks,
        "blocks": carry_blocks,
        "BLOCK_L": min(128, max(16, triton.next_power_of_2(chunks))),
        "BLOCK_C": 16,
        "REVERSE": reverse,
        "num_warps": 4,
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
    return [
        (kernel, grid, dict(arguments, products=products, lasts=lasts, AGGREGATE=True, HAS_CARRY=False)),
        (kernels.scan_carry_kernel, (batch * carry_blocks,), carry),
        (kernel, grid, dict(arguments, products=products, lasts=carries, AGGREGATE=False, HAS_CARRY=True)),
    ]


def forward_launches(
    states: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
) -> list[Launch]:
    """Launches that fill ``states`` (B, C, L)."""
    arguments = _common(u, delta, A, B, delta_bias, delta_softplus, tile=TILE)
    arguments.update(states=states, **_strides("h", states))
    return _chunked(kernels.scan_kernel, arguments, u.device, reverse=False)


def backward_launches(
    grad_u: Tensor,
    grad_delta: Tensor,
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> list[Launch]:
    """Launches that fill ``grad_u``, ``grad_delta`` and, of the last one's arguments, the partial sums.

    Those are "grad_a" and "grad_bias" (B, chunks, C) and "grad_b" (B, N, blocks, L), float32.
    """
    arguments = _common(u, delta, A, B, delta_bias, delta_softplus, tile=TILE // 2)
    # Four elements a thread: with eight, the assembler spills a few of float32's registers.
    arguments["num_warps"] = 8
    batch, channels, length = u.shape
    grad_a, grad_bias = torch.empty(
        (2, batch, arguments["chunks"], channels), dtype=torch.float32, device=u.device
    )  # fmt: skip
    partial_b = torch.empty(
        (batch, arguments["groups"], arguments["blocks"], length), dtype=torch.float32, device=u.device
    )
    arguments.update(
        grad=grad,
        states=states,
        grad_u=grad_u,
        grad_delta=grad_delta,
        grad_a=grad_a,
        grad_b=partial_b,
        grad_bias=grad_bias,
        **_strides("g", grad),
        **_strides("h", states),
        **_strides("gu", grad_u),
        **_strides("gd", grad_delta),
    )
    return _chunked(kernels.scan_backward_kernel, arguments, u.device, reverse=True)


def _advance(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the states, stored in ``dtype``."""
    states = _like(u, dtype)
    if not states.numel():
        return states
    A, bias = A.contiguous(), None if delta_bias is None else delta_bias.contiguous()
    key = "scan", *map(kind, (u, delta, A, B, bias)), delta_softplus, dtype
    launches = repeated(key, lambda: forward_launches(states, u, delta, A, B, bias, delta_softplus))
    tensors = {"u": u, "delta": delta, "a": A, "b": B, "bias": A if bias is None else bias, "states": states}
    with on_device(u):
        _launch(launches, tensors, states)
    return states


def _launch(launches: list[RepeatedLaunch], tensors: dict[str, Tensor], unused: Tensor) -> None:
    """Launch what :func:`_chunked` made, with room for what the chunks tell each other."""
    if len(launches) == 1:
        launches[0](products=unused, lasts=unused, **tensors)
        return
    products, lasts, carries = torch.empty(
        (3, *launches[1].shapes["products"]), dtype=torch.float32, device=unused.device
    )
    aggregate, carry, apply = launches
    aggregate(products=products, lasts=lasts, **tensors)
    carry(products=products, lasts=lasts, carries=carries)
    apply(products=products, lasts=carries, **tensors)


def _gradients(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u, delta, A, B and delta_bias (of no meaning without one)."""
    if not u.numel():
        grad_u, grad_delta, grad_A, grad_B, grad_bias = _empty_grads(u, delta, A, B, delta_bias)
        return grad_u, grad_delta, grad_A.zero_(), grad_B.zero_(), grad_bias.zero_()
    grad_u, grad_delta = _like(u, u.dtype), _like(delta, delta.dtype)
    rates, bias = A.contiguous(), None if delta_bias is None else delta_bias.contiguous()
    key = "scan backward", *map(kind, (u, delta, rates, B, bias, grad, states)), delta_softplus
    launches = repeated(
        key, lambda: backward_launches(grad_u, grad_delta, grad, states, u, delta, rates, B, bias, delta_softplus)
    )
    shapes = launches[-1].shapes
    grad_a, grad_bias = torch.empty((2, *shapes["grad_a"]), dtype=torch.float32, device=u.device)
    grad_b = torch.empty(shapes["grad_b"], dtype=torch.float32, device=u.device)
    tensors = {"grad": grad, "states": states, "u": u, "delta": delta, "a": rates, "b": B}
    tensors |= {"bias": rates if bias is None else bias, "grad_u": grad_u, "grad_delta": grad_delta}
    tensors |= {"grad_a": grad_a, "grad_b": grad_b, "grad_bias": grad_bias}
    with on_device(u):
        _launch(launches, tensors, states)
    bias_dtype = torch.float32 if delta_bias is None else delta_bias.dtype
    return (
        grad_u,
        grad_delta,
        grad_a.sum((0, 1)).to(A.dtype),
        grad_b.sum(2).to(B.dtype),
        grad_bias.sum((0, 1)).to(bias_dtype),
    )


@torch.library.custom_op("a2mamba::selective_scan_state_triton", mutates_args=())
def _forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    return _advance(u, delta, A, B, delta_bias, delta_softplus)


@torch.library.custom_op("a2mamba::selective_scan_state_triton_backward", mutates_args=())
def _backward(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _gradients(grad, states, u, delta, A, B, delta_bias, delta_softplus)


def _empty_grads(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        _like(u, u.dtype),
        _like(delta, delta.dtype),
        torch.empty(A.shape, dtype=A.dtype, device=A.device),
        torch.empty(B.shape, dtype=B.dtype, device=B.device),
        torch.empty(A.shape, dtype=torch.float32 if delta_bias is None else delta_bias.dtype, device=A.device),
    )


@_forward.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool) -> Tensor:
    return _like(u, torch.float32)


@_backward.register_fake
def _(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _empty_grads(u, delta, A, B, delta_bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, delta_softplus = inputs
    ctx.save_for_backward(output, *tensors)
    ctx.delta_softplus = delta_softplus


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    states, u, delta, A, B, delta_bias = ctx.saved_tensors
    *grads, grad_bias = _backward(grad, states, u, delta, A, B, delta_bias, ctx.delta_softplus)
    return *grads, None if delta_bias is None else grad_bias, None


_forward.register_autograd(_differentiate, setup_context=_save)


class _Scan(torch.autograd.Function):
    """What ``_forward`` is, without the time that torch.library takes for a call."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, delta_bias: Tensor | None, delta_softplus: bool
    ) -> Tensor:
        states = _advance(u, delta, A, B, delta_bias, delta_softplus)
        _save(ctx, (u, delta, A, B, delta_bias, delta_softplus), states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments: tuple[Any, ...] = (*ctx.saved_tensors, ctx.delta_softplus)
        *grads, grad_bias = _gradients(grad, *arguments)
        return *grads, grad_bias if ctx.needs_input_grad[4] else None, None


def run(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the states (B, C, L); arguments as in ``operator.selective_scan_state``, B as (B, N, L).

    Memory has the axis innermost, C or L, that is innermost in ``u``.
    """
    if unwatched(u):
        # What a cast would read again is stored as it is wanted; between chunks, states are float32 all the same.
        return _advance(u, delta, A, B, delta_bias, delta_softplus, dtype or torch.float32)
    if not untraced(u):
        states = _forward(u, delta, A, B, delta_bias, delta_softplus)
    elif any(x is not None and x.requires_grad for x in (u, delta, A, B, delta_bias)):
        states = _Scan.apply(u, delta, A, B, delta_bias, delta_softplus)
    else:
        states = _advance(u, delta, A, B, delta_bias, delta_softplus)
    return states if dtype is None else states.to(dtype)
