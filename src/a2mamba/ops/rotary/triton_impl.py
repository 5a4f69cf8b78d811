"""The rotation on GPUs, at inference: launches of ``triton_kernels.py`` and checks."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from a2mamba.ops.dispatch import unfit
from a2mamba.ops.rotary import triton_kernels as kernels
from a2mamba.ops.triton_launch import Launch, kind, on_device, remembered, repeated
from a2mamba.ops.triton_maps import position_stride, unfit_maps, watched

ELEMENTS = 2048
"""Numbers of a program: 16 for each of 128 threads."""


def why_not(x: Tensor, table: Tensor) -> str | None:
    """Return why this kernel cannot run the arguments of ``operator.rotate``, or None."""
    return watched(x) or _unfit(x, table)


@remembered
def _unfit(x: Tensor, table: Tensor) -> str | None:
    channels = x.shape[3:].numel()
    if not 0 < channels <= ELEMENTS:
        return f"positions have 1 to {ELEMENTS} channels, got {channels}"
    return unfit(x=x, table=table) or unfit_maps(x=_map(x))


def _map(x: Tensor) -> Tensor:
    """(B, H, W, ..., d) -> (B, C, H, W), a view where the channels of a position lie side by side."""
    return x.flatten(3).permute(0, 3, 1, 2)


def forward_launch(out: Tensor, x: Tensor, table: Tensor) -> Launch:
    """Launch that fills ``out``; ``x`` is a map (B, C, H, W)."""
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
    return kernels.rotate_kernel, (triton.cdiv(rows, ELEMENTS // padded),), arguments


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return the shape and dtype of ``x``, contiguous; arguments as in ``operator.rotate``."""
    # Where channels do not lie side by side, flattening has made a copy in ``_map`` that ``why_not`` never sees.
    x = x if x.flatten(3).data_ptr() == x.data_ptr() else x.contiguous()
    out, table = torch.empty(x.shape, dtype=x.dtype, device=x.device), table.contiguous()
    if not out.numel():
        return out
    key = "rotate", kind(x), kind(table)
    (launch,) = repeated(key, lambda: [forward_launch(out, _map(x), table)])
    with on_device(x):
        launch(x=x, table=table, out=out)
    return out
