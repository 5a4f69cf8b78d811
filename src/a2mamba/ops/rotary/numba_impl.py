"""The rotation on CPUs through Numba: memory and the call. The kernel is ``numba_kernels.py``.

Numba is imported, and the kernel compiled or read from Numba's cache on disk, at the first run. There is no gradient
here: training rotates by PyTorch's operations.
"""

from __future__ import annotations

from torch import Tensor

from a2mamba.ops import numba_threads
from a2mamba.ops.dispatch import LANES

RUN = 64
"""Positions that a thread takes at a time."""


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return the shape of ``x``, bfloat16; arguments as in ``reference.rotate``."""
    from a2mamba.ops.rotary import numba_kernels

    out = x.new_empty(x.shape)
    if not out.numel():
        return out
    # (positions, heads * d), channels side by side; a view where they are so already.
    rows = x.flatten(0, 2).flatten(1)
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    table = table.contiguous()
    positions, channels = rows.shape
    items, d = -(-positions // RUN), x.shape[-1]
    numbers = [items, positions, RUN, x.shape[1] * x.shape[2], channels // d, d // LANES]
    numbers += [rows.data_ptr(), 2 * rows.stride(0), table.data_ptr(), 4 * d, out.data_ptr(), 2 * channels]
    numba_threads.run(numba_kernels.KERNEL, min(numba_threads.threads(), items), numbers)
    return out
