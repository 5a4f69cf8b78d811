"""The public neighborhood attention: checks, torch.library registration, dispatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from a2mamba.ops.neighborhood import comparison, numba_impl, reference, torch_impl
from a2mamba.ops.registration import register, shielded


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _heads_innermost(like: Tensor) -> Tensor:
    """Return an empty (B, G, H, W, d) whose memory is (B, H, W, G, d), as the implementation's."""
    batch, heads, height, width, channels = like.shape
    return like.new_empty(batch, height, width, heads, channels).permute(0, 3, 1, 2, 4)


_ARGUMENTS = "Tensor q, Tensor k, Tensor v, Tensor? bias, SymInt[] kernel_size, SymInt[] dilation, float scale"


def _shielded(implementation: Callable[[Tensor], Any], function: str) -> Callable[..., Any]:
    """Return what an operator does; torch.library hands over lists, and the implementations take pairs."""
    run = shielded(implementation, function)

    def compute(*arguments: Any) -> Any:
        *tensors, kernel_size, dilation, scale = arguments
        return run(*tensors, _pair(kernel_size), _pair(dilation), scale)

    return compute


def _fake(q: Tensor, k: Tensor, v: Tensor, *others: Any) -> Tensor:
    return _heads_innermost(v)


def _fake_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel_size: Sequence[int], *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (v.shape[1], 2 * kernel_size[0] - 1, 2 * kernel_size[1] - 1)
    grad_bias = v.new_empty(shape, dtype=torch.promote_types(q.dtype, v.dtype) if bias is None else bias.dtype)
    return _heads_innermost(q), _heads_innermost(k), _heads_innermost(v), grad_bias


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    q, k, v, bias, kernel_size, dilation, scale = inputs
    ctx.save_for_backward(q, k, v, bias)
    ctx.settings = (list(kernel_size), list(dilation), scale)


def _define(name: str, implementation: Callable[[Tensor], Any]) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Register the forward under a name and under another for a map that is applied again, and the gradient of both.

    The two are the same computation, but the second counts fewer operations in the paper.
    """
    backward = register(
        f"{name}_backward",
        f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor)",
        _shielded(implementation, "backward"),
        _fake_gradients,
    )

    def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        grad_q, grad_k, grad_v, grad_bias = backward(grad, q, k, v, bias, *ctx.settings)
        return grad_q, grad_k, grad_v, None if bias is None else grad_bias, None, None, None

    first, again = (
        register(
            each,
            f"({_ARGUMENTS}) -> Tensor",
            _shielded(implementation, "forward"),
            _fake,
            differentiate,
            _setup_context,
        )
        for each in (name, f"{name}_again")
    )
    return first, again


_forward, _forward_again = _define("a2mamba::neighborhood_attention", lambda x: torch_impl)
_numba_forward, _numba_forward_again = _define(
    "a2mamba::neighborhood_attention_numba", lambda x: portable(x, numba_impl, torch_impl)
)


Memory = Any
"""What a backend keeps of a map between its applications; None before the first."""


def _torch_why_not(memory: Memory | None, *arguments: Any) -> str | None:
    return not_plain(*arguments[:4])


def _torch_run(memory: Memory | None, *arguments: Any, again: bool) -> tuple[Tensor, Memory]:
    return (_forward if memory is None else _forward_again)(*arguments), True


def _numba_run(memory: Memory | None, *arguments: Any, again: bool) -> tuple[Tensor, Memory]:
    if unwatched(arguments[2]):
        # Without a context that turns autocast off: it costs as much as a small map, and no operation there heeds it.
        return numba_impl.apply(memory, *arguments, again=again)
    return (_numba_forward if memory is None else _numba_forward_again)(*arguments), True


def _numba_why_not(memory: Memory | None, *arguments: Any) -> str | None:
    return numba_impl.why_not(*arguments) or comparison.numba(arguments[0].device)


def _reference_run(memory: Memory | None, *arguments: Any, again: bool) -> tuple[Tensor, Memory]:
    return reference.neighborhood_attention(*arguments), True


def _triton_run(memory: Memory | None, *arguments: Any, again: bool) -> tuple[Tensor, Memory]:
    from a2mamba.ops.neighborhood import triton_impl

    if memory is None:
        return triton_impl.run_with_memory(*arguments)
    q, k, v, bias, *settings = arguments
    return triton_impl.apply_again(q, k, v, bias, memory, *settings), memory


def _triton_why_not(memory: Memory | None, *arguments: Any) -> str | None:
    missing = triton_missing(arguments[0])
    if missing is not None:
        return missing
    from a2mamba.ops.neighborhood import triton_impl

    return triton_impl.why_not(*arguments) or comparison.triton(arguments[0].device)


BACKENDS = (
    Backend("triton", _triton_why_not, _triton_run),
    Backend("numba", _numba_why_not, _numba_run),
    Backend("torch", _torch_why_not, _torch_run),
    Backend("reference", always, _reference_run),
)
"""In order of preference. All take (memory, q, k, v, bias, (K_h, K_w), (r_h, r_w), scale), and whether another
application will follow, to (out, memory)."""


class NeighborhoodMap:
    """One attention map that is applied to several values, and not stored where it is large.

    Queries, keys and options are those of :func:`neighborhood_attention`; every call takes values (B, heads, H, W, e)
    and returns their aggregate. A2Mamba applies its maps first to values, then to hidden states. Gradients of the
    applications add up in the queries, keys and bias. ``again`` announces more than one application: a backend may then
    keep more of the first, the map itself if it is small and no gradient is wanted.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        bias: Tensor | None = None,
        *,
        kernel_size: int | Sequence[int],
        dilation: int | Sequence[int] = 1,
        scale: float | None = None,
        again: bool = False,
        backend: str | None = None,
    ) -> None:
        self.q, self.k, self.bias = q, k, bias
        self.window = _odd_pair(kernel_size)
        self.dilation = _positive_pair(dilation)
        self.scale = q.shape[-1] ** -0.5 if scale is None else scale
        self.again = again
        self.backend = backend
        self.memory: Memory | None = None

    def __call__(self, v: Tensor) -> Tensor:
        """Return the map applied to ``v`` (B, heads, H, W, e), same shape and dtype."""
        _check(self.q, self.k, v, self.bias, self.window)
        arguments = (self.memory, self.q, self.k, v, self.bias, self.window, self.dilation, self.scale)
        backend = select("neighborhood_attention", BACKENDS, self.backend, arguments)
        out, self.memory = backend.run(*arguments, again=self.again)
        return out


def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attend, at every position of a map, to the K_h x K_w nearest positions (A2Mamba, equations 1 and 2).

    At a border the window shifts and keeps its size. Dilation r makes every r-th position a map of its own. Where an
    axis is too short for window times dilation, the dilation falls to the largest that fits; where it is shorter than
    the window, the window becomes the whole axis. Autocast does not change the precision inside.

    Args:
        q: queries (B, heads, H, W, d), any floating dtype; H and W at least 1.
        k: keys, shape and dtype of ``q``.
        v: values (B, heads, H, W, e); e need not equal d.
        bias: table (heads, 2 K_h - 1, 2 K_w - 1) added to the scores, looked up by the offset of the key from the query
            in (dilated) positions plus K - 1; or None.
        kernel_size: K, odd, for both axes or as (K_h, K_w).
        dilation: r >= 1, for both axes or as (r_h, r_w).
        scale: factor of the scores; d ** -0.5 when None.
        backend: "triton", "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        (B, heads, H, W, e) in the dtype of ``v``. Scores and softmax use the wider of the two dtypes.

    Raises:
        ValueError: for shapes, dtypes, windows, dilations or a backend that do not fit, naming what was found.
    """
    attention = NeighborhoodMap(q, k, bias, kernel_size=kernel_size, dilation=dilation, scale=scale, backend=backend)
    return attention(v)


def explain_backends(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these tensors, or None."""
    return explain(BACKENDS, (None, q, k, v, bias, (3, 3), (1, 1), 1.0))


def _odd_pair(kernel_size: int | Sequence[int]) -> tuple[int, int]:
    pair = _positive_pair(kernel_size, "kernel_size")
    if pair[0] % 2 == 0 or pair[1] % 2 == 0:
        raise ValueError(f"kernel_size must be odd on both axes, got {kernel_size}")
    return pair


def _positive_pair(value: int | Sequence[int], name: str = "dilation") -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if len(pair) != 2 or pair[0] < 1 or pair[1] < 1:
        raise ValueError(f"{name} must be one positive integer or two, got {value}")
    return pair[0], pair[1]


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, window: tuple[int, int]) -> None:
    if q.dim() != 5 or q.shape != k.shape or v.dim() != 5 or q.shape[:4] != v.shape[:4]:
        raise ValueError(
            "q, k (B, heads, H, W, d) and v (B, heads, H, W, e) must agree in all but the last axis, got "
            f"{tuple(q.shape)}, {tuple(k.shape)} and {tuple(v.shape)}"
        )
    if q.shape[2] < 1 or q.shape[3] < 1:
        raise ValueError(f"the map must be at least 1 x 1, got {q.shape[2]} x {q.shape[3]}")
    if q.dtype != k.dtype or not q.is_floating_point() or not v.is_floating_point():
        raise ValueError(f"q and k must share a floating dtype and v have one, got {q.dtype}, {k.dtype}, {v.dtype}")
    if bias is not None and bias.shape != (q.shape[1], 2 * window[0] - 1, 2 * window[1] - 1):
        expected = (q.shape[1], 2 * window[0] - 1, 2 * window[1] - 1)
        raise ValueError(f"bias must have shape {expected} for this window, got {tuple(bias.shape)}")
