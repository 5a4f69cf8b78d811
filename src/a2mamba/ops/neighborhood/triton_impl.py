"""Neighborhood attention on GPUs: checks, runs of what ``triton_launches.py`` makes, torch.library registration.

The forward keeps only the log-sum-exp of every query; the backward recomputes the weights tile by tile, once for the
gradients of queries, once for those of keys and values, and once for that of the bias table, so that no sum over
programs is ever needed but for the last, whose shares a kernel adds up in a fixed order.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from a2mamba.ops.dispatch import unfit, untraced
from a2mamba.ops.neighborhood import triton_launches as launching
from a2mamba.ops.neighborhood.tiles import Tiling
from a2mamba.ops.triton_launch import Launch, dense_kind, kind, on_device, remembered, repeated

MAX_WIDTH = 64
MAX_WINDOW = 13


def why_not(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> str | None:
    """Return why these kernels cannot run the arguments of ``reference.neighborhood_attention``, or None."""
    check = _unfit_again if untraced(q) else _unfit
    return check(q, k, v, bias, kernel_size)


def _unfit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel_size: tuple[int, int]) -> str | None:
    if q.device.type != "cuda" and not (q.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return f"its kernels need a GPU, and the tensors are on {q.device.type}"
    objection = unfit(q=q, k=k, v=v, bias=bias)
    if objection is not None:
        return objection
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.shape[-1] > MAX_WIDTH or tensor.shape[-1] < 1:
            return f"heads of {name} must have 1 to {MAX_WIDTH} channels, got {tensor.shape[-1]}"
        if _span(tensor) >= 2**31:
            return f"an image of {name} spans 2^31 elements or more"
    if k.dtype != q.dtype:
        return f"q and k must share a dtype, got {q.dtype} and {k.dtype}"
    if max(kernel_size) > MAX_WINDOW:
        return f"windows reach to {MAX_WINDOW}, got {kernel_size}"
    return None


_unfit_again = remembered(_unfit)


def _span(x: Tensor) -> int:
    """Return how many elements an offset inside one head's image of ``x``, or of a result like it, can reach."""
    (_, heads, height, width, channels), (_, _, *strides) = x.shape, x.stride()
    strided = (height - 1) * strides[0] + (width - 1) * strides[1] + (channels - 1) * strides[2]
    return max(strided, heads * height * width * channels)


def _heads_innermost(like: Tensor) -> Tensor:
    """Return an empty tensor of the shape of ``like`` (B, G, H, W, e) whose memory is (B, H, W, G, e)."""
    batch, heads, height, width, channels = like.shape
    return torch.empty(
        (batch, height, width, heads, channels), dtype=like.dtype, device=like.device
    ).permute(0, 3, 1, 2, 4)  # fmt: skip


def _per_query(like: Tensor) -> Tensor:
    """Return an empty float32 tensor (B, G, H, W)."""
    return torch.empty(like.shape[:4], dtype=torch.float32, device=like.device)


def _table(bias: Tensor | None) -> Tensor | None:
    """Return the bias as the kernels read it."""
    return None if bias is None else bias.detach().to(torch.float32).contiguous()


def _settings(kernel_size: Sequence[int], dilation: Sequence[int], scale: float) -> Hashable:
    return *kernel_size, *dilation, scale


def _matrix(
    q: Tensor, table: Tensor | None, kernel_size: Sequence[int], found: Tiling, *, of_keys: bool = False
) -> Tensor:
    """Return bias and window of every kind of tiles."""
    matrix = launching.empty_matrix(q, found)
    # Tilings are made once for their settings, and kept.
    key = "matrix", id(found), kind(table), dense_kind(matrix), matrix.shape
    (launch,) = repeated(key, lambda: [launching.matrix_launch(matrix, table, kernel_size, found, of_keys=of_keys)])
    launch(bias=matrix if table is None else table, matrix=matrix, **found.kind_tables)
    return matrix


class Memory(NamedTuple):
    """What is kept of an attention for its other applications and its gradient."""

    lse: Tensor
    """log-sum-exp of every query's scores, natural, float32 (B, G, H, W)"""
    matrix: Tensor | None = None
    """bias and window of every kind of tiles; None: computed again from the bias"""
    tiling: Tiling | None = None
    """the tiles that the matrix is of"""


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    memory: Memory | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Memory]:
    """Return the attention and what to keep of it."""
    out, again = _heads_innermost(v), memory is not None
    lse = _per_query(q) if memory is None else memory.lse.contiguous()
    if not out.numel():
        return out, Memory(lse)
    found = launching.map_tiling(q, v, kernel_size, dilation)
    with on_device(q):
        # Values of another dtype than the first may be cut into other tiles.
        if memory is None or memory.matrix is None or memory.tiling is not found:
            matrix = _matrix(q, _table(bias), kernel_size, found)
        else:
            matrix = memory.matrix
        settings = _settings(kernel_size, dilation, scale)
        key = "attention", again, *map(kind, (q, k, v)), dense_kind(lse), dense_kind(matrix), settings

        def launches() -> list[Launch]:
            return [launching.forward_launch(out, lse, q, k, v, matrix, scale, found, again=again)]

        (launch,) = repeated(key, launches)
        launch(q=q, k=k, v=v, matrix=matrix, **found.tables, out=out, lse=lse)
    return out, Memory(lse, matrix, found)


def _gradients(
    grad: Tensor,
    out: Tensor,
    memory: Memory,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k, v and, where it is needed, of the bias."""
    grad_q, grad_k, grad_v = _heads_innermost(q), _heads_innermost(k), _heads_innermost(v)
    needs_bias = needs_bias and bias is not None
    if not out.numel():
        return grad_q, grad_k, grad_v, _bias_like(q, bias).zero_() if needs_bias else None
    grad_bias = (
        None if bias is None or not needs_bias else torch.empty(bias.shape, dtype=torch.float32, device=q.device)
    )
    # The kernels know where the forward wrote; a hook that keeps tensors elsewhere may hand back another layout.
    out, lse = out.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4), memory.lse.contiguous()
    table, delta = _table(bias), _per_query(q)
    queries, keys = (launching.map_tiling(q, v, kernel_size, dilation, of_keys=of_keys) for of_keys in (False, True))
    settings = _settings(kernel_size, dilation, scale)

    with on_device(q):
        matrix = _matrix(q, table, kernel_size, queries) if memory.matrix is None else memory.matrix.contiguous()
        matrix_of_keys = _matrix(q, table, kernel_size, keys, of_keys=True)
        kinds = *map(kind, (q, k, v, grad)), *map(dense_kind, (out, lse, matrix))
        key = "attention backward", *kinds, settings, grad_bias is not None

        def launches() -> list[Launch]:
            shared = delta, grad, lse, q, k, v
            found = [
                launching.backward_q_launch(grad_q, delta, grad, out, lse, q, k, v, matrix, scale, queries),
                launching.backward_kv_launch((grad_k, grad_v), *shared, matrix_of_keys, scale, keys),
            ]
            if grad_bias is not None:
                found += launching.bias_launches(grad_bias, *shared, matrix, kernel_size, scale, queries)
            return found

        for_q, for_kv, *for_bias = repeated(key, launches)
        inputs = {"q": q, "k": k, "v": v, "lse": lse, "delta": delta, "grad": grad}
        for_q(out=out, grad_q=grad_q, matrix=matrix, **queries.tables, **inputs)
        for_kv(grad_k=grad_k, grad_v=grad_v, matrix=matrix_of_keys, **keys.tables, **inputs)
        if grad_bias is not None:
            collect, spread = for_bias
            partial = torch.empty(collect.shapes["partial"], dtype=torch.float32, device=q.device)
            shares = launching.bias_runs(q, queries)
            collect(
                partial=partial,
                runs=shares.table,
                matrix=matrix,
                **queries.tables,
                **queries.kind_tables,
                **inputs,
            )
            spread(partial=partial, first_runs=shares.first, grad_bias=grad_bias, **queries.kind_tables)
    return grad_q, grad_k, grad_v, None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)


@torch.library.custom_op("a2mamba::neighborhood_attention_triton", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    out, memory = _attend(q, k, v, bias, None, kernel_size, dilation, scale)
    return out, memory.lse


@torch.library.custom_op("a2mamba::neighborhood_attention_triton_again", mutates_args=())
def _again(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lse: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> Tensor:
    return _attend(q, k, v, bias, Memory(lse), kernel_size, dilation, scale)[0]


@torch.library.custom_op("a2mamba::neighborhood_attention_triton_backward", mutates_args=())
def _backward(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    memory = Memory(lse)
    *grads, grad_bias = _gradients(grad, out, memory, q, k, v, bias, kernel_size, dilation, scale, needs_bias)
    return grads[0], grads[1], grads[2], _bias_like(q, bias).zero_() if grad_bias is None else grad_bias


def _bias_like(q: Tensor, bias: Tensor | None) -> Tensor:
    """Return an empty, contiguous gradient of the bias; empty in size too without one."""
    if bias is None:
        return torch.empty(0, dtype=torch.float32, device=q.device)
    return torch.empty(bias.shape, dtype=bias.dtype, device=bias.device)


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    return _heads_innermost(v), _per_query(q)


@_again.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lse: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> Tensor:
    return _heads_innermost(v)


@_backward.register_fake
def _(
    grad: Tensor,
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _heads_innermost(q), _heads_innermost(k), _heads_innermost(v), _bias_like(q, bias)


def _save_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, kernel_size, dilation, scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*output, q, k, v, bias)
    ctx.settings = (list(kernel_size), list(dilation), scale)


def _save_again(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, k, v, bias, lse, kernel_size, dilation, scale = inputs
    ctx.save_for_backward(output, lse, q, k, v, bias)
    ctx.settings = (list(kernel_size), list(dilation), scale)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    needs_bias = ctx.needs_input_grad[3]
    settings = ctx.settings
    grad_q, grad_k, grad_v, grad_bias = _backward(grad, *ctx.saved_tensors, *settings, needs_bias)
    return grad_q, grad_k, grad_v, grad_bias if needs_bias else None


def _differentiate_forward(ctx: Any, grad: Tensor, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_differentiate(ctx, grad), None, None, None


def _differentiate_again(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_differentiate(ctx, grad), None, None, None, None


_forward.register_autograd(_differentiate_forward, setup_context=_save_forward)
_again.register_autograd(_differentiate_again, setup_context=_save_again)


class _Attention(torch.autograd.Function):
    """What ``_forward`` and ``_again`` are, without the time that torch.library takes for a call."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        memory: Memory | None,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        scale: float,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        out, (lse, matrix, _) = _attend(q, k, v, bias, memory, kernel_size, dilation, scale)
        ctx.save_for_backward(out, lse, matrix, q, k, v, bias)
        ctx.settings = (kernel_size, dilation, scale)
        ctx.set_materialize_grads(False)
        if memory is None:
            ctx.mark_non_differentiable(*(x for x in (lse, matrix) if x is not None))
            return out, lse, matrix
        return out, None, None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        out, lse, matrix, *tensors = ctx.saved_tensors
        arguments: tuple[Any, ...] = (*tensors, *ctx.settings, ctx.needs_input_grad[3])
        return *_gradients(grad, out, Memory(lse, matrix), *arguments), None, None, None, None


def _apply(arguments: tuple[Any, ...], memory: Memory | None) -> tuple[Tensor, Memory] | None:
    """Return the attention and what to keep of it; None where something needs torch.library."""
    q, k, v, bias, *settings = arguments
    if not untraced(q):
        return None
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias)):
        out, lse, matrix = _Attention.apply(q, k, v, bias, memory, *settings)
        return out, memory or Memory(lse, matrix, launching.map_tiling(q, v, *settings[:2]))
    return _attend(q, k, v, bias, memory, *settings)


def _first(arguments: tuple[Any, ...]) -> tuple[Tensor, Memory]:
    found = _apply(arguments, None)
    if found is not None:
        return found
    out, lse = _forward(*arguments)
    return out, Memory(lse)


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    """Return neighborhood attention (B, G, H, W, e); arguments as in ``reference.neighborhood_attention``.

    Memory is (B, H, W, G, e), the dtype that of ``v``. q and k share a dtype; v may have another.
    """
    return _first((q, k, v, bias, kernel_size, dilation, scale))[0]


def run_with_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Memory]:
    """Return :func:`run` and what :func:`apply_again` needs; autograd does not differentiate that."""
    return _first((q, k, v, bias, kernel_size, dilation, scale))


def apply_again(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    memory: Memory,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    """Return the attention of an earlier call applied to other values ``v`` (B, G, H, W, e).

    q, k, bias and the settings are the earlier call's, ``memory`` what :func:`run_with_memory` returned. Knowing the
    log-sum-exp saves the running maximum and sum. The call is differentiated as an attention of its own, through q, k,
    v and bias: its gradients and those of the earlier call add up to the gradients of a map computed once and applied
    twice, because the weights of both are the same function of q, k and bias.
    """
    found = _apply((q, k, v, bias, kernel_size, dilation, scale), memory)
    return _again(q, k, v, bias, memory.lse, kernel_size, dilation, scale) if found is None else found[0]
