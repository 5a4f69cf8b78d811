"""The public rotary position encoding: dispatch.

It is not registered with torch.library: where a graph or a gradient is recorded, PyTorch's own operations run.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from a2mamba.ops.dispatch import Backend, Choice, always, explain, select, triton_missing
from a2mamba.ops.rotary import comparison, reference, torch_impl


def _triton_why_not(*arguments: Any) -> str | None:
    missing = triton_missing(arguments[0])
    if missing is not None:
        return missing
    from a2mamba.ops.rotary import triton_impl

    return triton_impl.why_not(*arguments) or comparison.triton(arguments[0].device)


def _triton_run(*arguments: Any) -> Tensor:
    from a2mamba.ops.rotary import triton_impl

    return triton_impl.run(*arguments)


BACKENDS = (
    Backend("triton", _triton_why_not, _triton_run),
    Backend("torch", always, torch_impl.rotate),
    Backend("reference", always, reference.rotate),
)
"""In order of preference. All take (x, table)."""


def rotate(x: Tensor, table: Tensor, *, backend: str | None = None) -> Tensor:
    """Rotate the channel pairs of every head by its position: (a, b) -> (a cos - b sin, b cos + a sin).

    Args:
        x: (B, C, H, W), C a multiple of d.
        table: cosine and sine of the d / 2 pairs of a head at every position, (H, W, d / 2, 2).
        backend: "triton", "torch" or "reference"; None takes the first that can run.

    Returns:
        (B, C, H, W) in the dtype of ``x``.

    Raises:
        ValueError: for shapes or a backend that do not fit.
    """
    if x.dim() != 4 or table.dim() != 4 or table.shape[:2] != x.shape[2:] or table.shape[3] != 2:
        raise ValueError(
            f"x and table must be (B, C, H, W) and (H, W, d / 2, 2), got {tuple(x.shape)} and {tuple(table.shape)}"
        )
    if x.shape[1] % (2 * table.shape[2]):
        raise ValueError(f"channels must be heads of {2 * table.shape[2]}, got {x.shape[1]}")
    return select("rotate", BACKENDS, backend, (x, table)).run(x, table)


def explain_backends(*arguments: Any) -> list[Choice]:
    """Return, in order of preference, every backend with the reason why it cannot run these arguments, or None."""
    return explain(BACKENDS, arguments)
