"""Neighborhood attention on GPUs: launches of ``triton_kernels.py``, checks, torch.library registration.

The forward keeps only the log-sum-exp of every query; the backward recomputes the weights tile by tile, once for the
gradients of queries, once for those of keys and values, and once for that of the bias table, so that no sum over
programs is ever needed but for the last, whose partial tables are added by PyTorch.

A *launch* is (kernel, grid, keyword arguments). Building one needs shapes, strides and dtypes only, so the same
functions serve a run and the ahead-of-time compilation of ``benchmarks/triton_aot.py``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from a2mamba.ops.dispatch import unfit, untraced
from a2mamba.ops.neighborhood import triton_kernels as kernels
from a2mamba.ops.neighborhood.reference import effective_window
from a2mamba.ops.triton_launch import Launch, kind, on_device, remembered, repeated

MAX_WIDTH = 64
MAX_WINDOW = 13

TILES = ((8, 8), (4, 16), (8, 16))
"""Shapes of query tiles. A tile of T x T queries computes (T + K - 1)^2 scores a query, K^2 of which count, so wide
tiles waste less inside a large map, and small ones less on the 11 or 12 positions of a dilated class. 64 rows are what
one Hopper matrix instruction of four warps takes."""

ITEMS = 64
"""(tile, image) pairs whose bias gradients are summed before they are spread over the table, at most."""

BIAS_PROGRAMS = 2048
"""Programs that the bias gradient is cut into where there is work enough: several for each of 100 to 150 processors."""


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


def _align(x: Tensor) -> int:
    """Return how many elements may be read at once: the power of two, up to 16 bytes, that divides every offset."""
    if x.stride(-1) != 1:
        return 1
    vector = 16 // x.element_size()
    return math.gcd(vector, x.data_ptr() // x.element_size(), *x.stride()[:-1])


def _power(width: int) -> int:
    """Return the width to which heads are padded: a power of two, 16 at least, as tensor cores take them."""
    return max(16, triton.next_power_of_2(width))


def _precision(device: torch.device) -> str:
    """Return how float32 matrices are multiplied: to float32's accuracy everywhere."""
    if device.type == "cpu":
        return "interpreter"
    # NVIDIA's tensor cores reach it with three tf32 products for one; AMD's multiply float32 itself.
    return "ieee" if torch.version.hip else "tf32x3"


def _is_wide(q: Tensor, v: Tensor) -> tuple[bool, bool]:
    """Return whether heads are padded to 64 channels, and whether a product is of float32 matrices."""
    return max(q.shape[-1], v.shape[-1]) > 32, max(q.element_size(), v.element_size()) == 4


def _tiles(q: Tensor, v: Tensor) -> tuple[tuple[int, int], ...]:
    # A quarter of the rows a warp where three tf32 products of wide heads would not fit into the registers.
    return ((4, 8),) if all(_is_wide(q, v)) else TILES


def _block(q: Tensor, v: Tensor) -> int:
    """Return the columns of a score block: as many as leave registers for several programs on a processor."""
    # Compiled ahead of time (benchmarks/triton_aot.py), half-precision kernels of 64 columns take twice the registers
    # of 32, and float32's spill on sm_80 with 32.
    return 16 if _is_wide(q, v)[1] else 32


def choose_tile(
    tiles: Sequence[tuple[int, int]],
    size: tuple[int, int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    block: int,
) -> tuple[int, int]:
    """Return the one of ``tiles`` that computes the fewest scores on a map of ``size``, in blocks of ``block`` keys."""
    window_h, step_h = effective_window(size[0], kernel_size[0], dilation[0])
    window_w, step_w = effective_window(size[1], kernel_size[1], dilation[1])
    long_h, long_w = math.ceil(size[0] / step_h), math.ceil(size[1] / step_w)

    def scores(tile: tuple[int, int]) -> int:
        count = math.ceil(long_h / tile[0]) * math.ceil(long_w / tile[1])
        region = min(tile[0] + window_h - 1, long_h) * min(tile[1] + window_w - 1, long_w)
        return count * tile[0] * tile[1] * math.ceil(region / block) * block

    return min(tiles, key=scores)


def _common(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[int, dict[str, Any]]:
    """Return the number of tiles and the arguments that all kernels share; the bias is float32 and contiguous."""
    batch, heads, height, width, channels = q.shape
    window_h, step_h = effective_window(height, kernel_size[0], dilation[0])
    window_w, step_w = effective_window(width, kernel_size[1], dilation[1])
    long_h, long_w = math.ceil(height / step_h), math.ceil(width / step_w)
    block = _block(q, v)
    tile_h, tile_w = choose_tile(_tiles(q, v), (height, width), kernel_size, dilation, block)
    tiles_h, tiles_w = math.ceil(long_h / tile_h), math.ceil(long_w / tile_w)
    arguments: dict[str, Any] = {
        "q": q,
        "k": k,
        "v": v,
        # Without a bias any pointer does: it is never read.
        "bias": q if bias is None else bias,
        "heads": heads,
        "height": height,
        "width": width,
        "step_h": step_h,
        "step_w": step_w,
        "window_h": window_h,
        "window_w": window_w,
        "extent_h": min(tile_h + window_h - 1, long_h),
        "extent_w": min(tile_w + window_w - 1, long_w),
        "tiles_h": tiles_h,
        "tiles_w": tiles_w,
        "scale": float(scale),
        "K_H": kernel_size[0],
        "K_W": kernel_size[1],
        "D": channels,
        "D_PAD": _power(channels),
        "E": v.shape[-1],
        "E_PAD": _power(v.shape[-1]),
        "T_H": tile_h,
        "T_W": tile_w,
        "BLOCK": block,
        "HAS_BIAS": bias is not None,
        "PRECISION": _precision(q.device),
        # 16 rows a warp: the registers of a thread do not depend on the tile.
        "num_warps": max(4, tile_h * tile_w // 16),
        # One block is loaded while another is computed. AMD's compiler pays for it with twice the registers.
        "num_stages": 1 if torch.version.hip else 2,
        "enable_fp_fusion": True,
    }
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        arguments.update(_layout(name, tensor))
    return batch * step_h * step_w * tiles_h * tiles_w, arguments


def _layout(name: str, x: Tensor) -> dict[str, Any]:
    arguments: dict[str, Any] = dict(zip((f"{name}_{axis}" for axis in "bghwd"), x.stride(), strict=True))
    return {**arguments, f"{name.upper()}_ALIGN": _align(x)}


def _registers(q: Tensor, count: int) -> dict[str, int]:
    """Return the option that lets a thread have ``count`` registers, where NVIDIA's assembler would rather spill."""
    return {} if q.device.type == "cpu" or torch.version.hip else {"maxnreg": count}


def _heads_innermost(like: Tensor) -> Tensor:
    """Return an empty tensor of the shape of ``like`` (B, G, H, W, e) whose memory is (B, H, W, G, e)."""
    batch, heads, height, width, channels = like.shape
    return torch.empty(
        (batch, height, width, heads, channels), dtype=like.dtype, device=like.device
    ).permute(0, 3, 1, 2, 4)  # fmt: skip


def _per_query(like: Tensor) -> Tensor:
    """Return an empty float32 tensor (B, G, H, W)."""
    return torch.empty(like.shape[:4], dtype=torch.float32, device=like.device)


def forward_launch(
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    *,
    again: bool,
) -> Launch:
    """Launch that fills ``out``, and ``lse`` unless ``again``, which reads it."""
    tiles, arguments = _common(q, k, v, bias, kernel_size, dilation, scale)
    arguments.update(out=out, lse=lse, AGAIN=again)
    return kernels.forward_kernel, (tiles * q.shape[1],), arguments


def backward_launches(
    grads: tuple[Tensor, Tensor, Tensor],
    delta: Tensor,
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
) -> list[Launch]:
    """Launches that fill ``delta`` and the gradients of q, k and v, in this order."""
    tiles, arguments = _common(q, k, v, bias, kernel_size, dilation, scale)
    arguments.update(lse=lse, delta=delta, grad=grad, **_layout("g", grad))
    for_q = dict(arguments, out=out, grad_q=grads[0], O_ALIGN=math.gcd(16 // out.element_size(), out.shape[-1]))
    for_kv = dict(arguments, grad_k=grads[1], grad_v=grads[2])
    if max(q.shape[-1], v.shape[-1]) > 32:
        for_kv["BLOCK"] = 16  # four accumulators of 64 channels beside wider blocks do not fit on sm_80
    if min(arguments["Q_ALIGN"] * q.element_size(), arguments["V_ALIGN"] * v.element_size()) < 16:
        # Rows that are read in pieces take more addresses than the four programs a processor have registers for.
        for_q.update(_registers(q, 168))
    # Key tiles find the queries that see them by themselves.
    del for_kv["extent_h"], for_kv["extent_w"]
    grid = (tiles * q.shape[1],)
    return [(kernels.backward_q_kernel, grid, for_q), (kernels.backward_kv_kernel, grid, for_kv)]


def bias_launch(
    delta: Tensor,
    grad: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
    *,
    deterministic: bool,
) -> Launch:
    """Launch that adds shares of the bias table's gradient to its argument "partial" (programs, G, table)."""
    items, arguments = _common(q, k, v, bias, kernel_size, dilation, scale)
    batch, heads = q.shape[:2]
    blocks = math.ceil(arguments["extent_h"] * arguments["extent_w"] / arguments["BLOCK"])
    per_program = max(1, min(ITEMS, items * blocks * heads // BIAS_PROGRAMS))
    programs = math.ceil(items / per_program) * blocks
    table = math.prod(bias.shape[1:])
    arguments.update(
        batch=batch,
        items=items,
        items_per_program=per_program,
        lse=lse,
        delta=delta,
        grad=grad,
        partial=torch.empty((programs, heads, table), dtype=torch.float32, device=q.device),
        DETERMINISTIC=deterministic,
        **_layout("g", grad),
    )
    del arguments["HAS_BIAS"]
    # What a second stage would hold in registers is needed for the collected scores.
    arguments["num_stages"] = 1
    if deterministic:
        arguments.update(_registers(q, 255))
    return kernels.backward_bias_kernel, (programs, heads), arguments


def _table(bias: Tensor | None) -> Tensor | None:
    """Return the bias as the kernels read it."""
    return None if bias is None else bias.detach().to(torch.float32).contiguous()


def _settings(kernel_size: Sequence[int], dilation: Sequence[int], scale: float) -> Hashable:
    return *kernel_size, *dilation, scale


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lse: Tensor | None,
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the attention and the log-sum-exp, which is given where it is known."""
    out, again = _heads_innermost(v), lse is not None
    lse = _per_query(q) if lse is None else lse.contiguous()
    if not out.numel():
        return out, lse
    table = _table(bias)
    key = again, kind(q), kind(k), kind(v), kind(table), _settings(kernel_size, dilation, scale)
    (launch,) = repeated(
        key, lambda: [forward_launch(out, lse, q, k, v, table, kernel_size, dilation, scale, again=again)]
    )
    with on_device(q):
        launch(q=q, k=k, v=v, bias=q if table is None else table, out=out, lse=lse)
    return out, lse


def _gradients(
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
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of q, k, v and, where it is needed, of the bias."""
    grad_q, grad_k, grad_v = _heads_innermost(q), _heads_innermost(k), _heads_innermost(v)
    needs_bias = needs_bias and bias is not None
    if not out.numel():
        return grad_q, grad_k, grad_v, _bias_like(q, bias).zero_() if needs_bias else None
    # The kernels know where the forward wrote; a hook that keeps tensors elsewhere may hand back another layout.
    out, lse = out.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4), lse.contiguous()
    table, delta = _table(bias), _per_query(q)
    deterministic = torch.are_deterministic_algorithms_enabled()
    settings = _settings(kernel_size, dilation, scale)
    key = kind(q), kind(k), kind(v), kind(grad), kind(out), kind(table), settings, needs_bias, deterministic

    def launches() -> list[Launch]:
        arguments = q, k, v, table, kernel_size, dilation, scale
        found = backward_launches((grad_q, grad_k, grad_v), delta, grad, out, lse, *arguments)
        if table is not None and needs_bias:
            found.append(
                bias_launch(delta, grad, lse, q, k, v, table, kernel_size, dilation, scale, deterministic=deterministic)
            )
        return found

    for_q, for_kv, *for_bias = repeated(key, launches)
    shared = {"q": q, "k": k, "v": v, "bias": q if table is None else table, "lse": lse, "delta": delta, "grad": grad}
    grad_bias = None
    with on_device(q):
        for_q(out=out, grad_q=grad_q, **shared)
        for_kv(grad_k=grad_k, grad_v=grad_v, **shared)
        for launch in for_bias:
            partial = torch.zeros(launch.shapes["partial"], dtype=torch.float32, device=q.device)
            launch(partial=partial, **shared)
            assert bias is not None
            grad_bias = partial.sum(0).view(bias.shape).to(bias.dtype)
    return grad_q, grad_k, grad_v, grad_bias


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
    return _attend(q, k, v, bias, None, kernel_size, dilation, scale)


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
    return _attend(q, k, v, bias, lse, kernel_size, dilation, scale)[0]


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
    *grads, grad_bias = _gradients(grad, out, lse, q, k, v, bias, kernel_size, dilation, scale, needs_bias)
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
        lse: Tensor | None,
        kernel_size: Sequence[int],
        dilation: Sequence[int],
        scale: float,
    ) -> tuple[Tensor, Tensor | None]:
        out, known = _attend(q, k, v, bias, lse, kernel_size, dilation, scale)
        ctx.save_for_backward(out, known, q, k, v, bias)
        ctx.settings = (kernel_size, dilation, scale)
        ctx.set_materialize_grads(False)
        if lse is not None:
            return out, None
        ctx.mark_non_differentiable(known)
        return out, known

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        arguments: tuple[Any, ...] = (*ctx.saved_tensors, *ctx.settings, ctx.needs_input_grad[3])
        return *_gradients(grad, *arguments), None, None, None, None


def _apply(arguments: tuple[Any, ...], lse: Tensor | None) -> tuple[Tensor, Tensor | None] | None:
    """Return the attention, and the log-sum-exp unless it is given; None where something needs torch.library."""
    q, k, v, bias, *settings = arguments
    if not untraced(q):
        return None
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias)):
        return _Attention.apply(q, k, v, bias, lse, *settings)
    return _attend(q, k, v, bias, lse, *settings)


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
    arguments = q, k, v, bias, kernel_size, dilation, scale
    return (_apply(arguments, None) or _forward(*arguments))[0]


def run_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return :func:`run` and the log-sum-exp of every query's scores, float32 (B, G, H, W), for :func:`apply_again`.

    The log-sum-exp is natural, and autograd does not differentiate it.
    """
    arguments = q, k, v, bias, kernel_size, dilation, scale
    found: Any = _apply(arguments, None)
    return _forward(*arguments) if found is None else found


def apply_again(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    lse: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    scale: float,
) -> Tensor:
    """Return the attention of an earlier call applied to other values ``v`` (B, G, H, W, e).

    q, k, bias and the settings are the earlier call's, ``lse`` what :func:`run_with_lse` returned. Knowing it saves
    the running maximum and sum. The call is differentiated as an attention of its own, through q, k, v and bias: its
    gradients and those of the earlier call add up to the gradients of a map computed once and applied twice, because
    the weights of both are the same function of q, k and bias.
    """
    found = _apply((q, k, v, bias, kernel_size, dilation, scale), lse)
    return _again(q, k, v, bias, lse, kernel_size, dilation, scale) if found is None else found[0]
