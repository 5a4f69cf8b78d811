"""The rotary position encoding on GPUs, at inference: launches of ``triton_kernels.py`` and checks."""

from __future__ import annotations

import triton
from torch import Tensor

from a2mamba.ops.dispatch import unfit
from a2mamba.ops.rotary import triton_kernels as kernels
from a2mamba.ops.triton_launch import Launch, kind, on_device, remembered, repeated
from a2mamba.ops.triton_maps import empty_map, position_stride, unfit_maps, watched

ELEMENTS = 2048
"""Numbers of a program: 16 for each of 128 threads."""


def why_not(x: Tensor, table: Tensor) -> str | None:
    """Return why this kernel cannot run the arguments of ``operator.rotate``, or None."""
    return watched(x) or _unfit(x, table)


@remembered
def _unfit(x: Tensor, table: Tensor) -> str | None:
    if not 0 < x.shape[1] <= ELEMENTS:
        return f"maps have 1 to {ELEMENTS} channels, got {x.shape[1]}"
    return unfit(x=x, table=table) or unfit_maps(x=x)


def forward_launch(out: Tensor, x: Tensor, table: Tensor) -> Launch:
    """Launch that fills ``out``."""
    channels = x.shape[1]
    rows, padded = x.numel() // channels, triton.next_power_of_2(channels)
    arguments = {
        "x": x,
        "table": table,
        "out": out,
        "rows": rows,
        "positions": x.shape[2] * x.shape[3],
        "x_p": position_stride(x),
        "C": channels,
        "C_PAD": padded,
        "D": 2 * table.shape[2],
        "ROWS": ELEMENTS // padded,
        "num_warps": 4,
    }
    return kernels.forward_kernel, (triton.cdiv(rows, ELEMENTS // padded),), arguments


def run(x: Tensor, table: Tensor) -> Tensor:
    """Return (B, C, H, W), channels innermost; arguments as in ``operator.rotate``."""
    out, table = empty_map(x, x.dtype), table.contiguous()
    if not out.numel():
        return out
    key = "rotate", kind(x), kind(table)
    (launch,) = repeated(key, lambda: [forward_launch(out, x, table)])
    with on_device(x):
        launch(x=x, table=table, out=out)
    return out
