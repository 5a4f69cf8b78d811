"""The public rotation: checks and dispatch.

It is not registered with torch.library: where a graph is recorded, a backend made of PyTorch's own operations runs, and
so it does on GPUs where a gradient is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from a2mamba.ops.dispatch import (
    LANES,
    Backend,
    Choice,
    always,
    explain,
    not_plain,
    numba_missing,
    select,
    triton_missing,
    untraced,
)
from a2mamba.ops.rotary import comparison, numba_impl, reference, torch_impl


def _numba_why_not(x: Tensor, table: Tensor) -> str | None:
    objection = numba_missing(x) or not_plain(x, table)
    if objection is not None:
        return objection
    if x.dtype not in (torch.float32, torch.bfloat16):
        return f"it is for float32 and bfloat16, got {x.dtype}"
    if table.dtype != torch.float32 or table.requires_grad:
        return f"the table must be float32 without a gradient, got {table.dtype}"
    if x.shape[-1] % LANES:
        return f"heads must be a multiple of {LANES} wide, got {x.shape[-1]}"
    if not untraced(x):
        return "a graph or something that watches needs PyTorch's own operations"
    return comparison.rotate(x.device)


def _triton_why_not(x: Tensor, table: Tensor) -> str | None:
    missing = triton_missing(x)
    if missing is not None:
        return missing
    from a2mamba.ops.rotary import triton_impl

    return triton_impl.why_not(x, table) or comparison.rotate_triton(x.device)


def _triton_run(x: Tensor, table: Tensor) -> Tensor:
    from a2mamba.ops.rotary import triton_impl

    return triton_impl.rotate(x, table)


BACKENDS = (
    Backend("triton", _triton_why_not, _triton_run),
    Backend("numba", _numba_why_not, numba_impl.rotate),
    Backend("torch", always, torch_impl.rotate),
    Backend("reference", always, reference.rotate),
)
"""In order of preference."""


def rotate(x: Tensor, table: Tensor, *, backend: str | None = None) -> Tensor:
    """Rotate neighboring channel pairs: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        x: (B, H, W, ..., d), any floating dtype.
        table: (H, W, d / 2, 2), cosine and sine of every position and pair.
        backend: "triton", "numba", "torch" or "reference"; None takes the first that can run.

    Returns:
        The shape and dtype of ``x``; computed in the wider of the two dtypes.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() < 4 or table.shape != (*x.shape[1:3], x.shape[-1] // 2, 2) or x.shape[-1] % 2:
        raise ValueError(
            f"x and table must be (B, H, W, ..., d) and (H, W, d / 2, 2), got {tuple(x.shape)} and {tuple(table.shape)}"
        )
    arguments = (x, table)
    return select("rotate", BACKENDS, backend, arguments).run(*arguments)


def explain_backends(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(BACKENDS, arguments)
