"""Both attention maps of a mixer on CPUs through Numba, at inference: what is asked of tensors is asked once for both.

The two halves of the heads are read, and their results written, where they lie.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from a2mamba.ops.neighborhood.numba_impl import (
    Plan,
    attend,
    bias_table,
    make_plan,
    multiplies_pairs,
    rows,
)
from a2mamba.ops.numba_arguments import cast, empty_heads, place_of_heads


class Branches:
    """The maps of ``branches.BranchedMap``; arguments as there."""

    def __init__(
        self, q: Tensor, k: Tensor, bias: Tensor, kernel_size: tuple[int, int], dilations: Sequence[tuple[int, int]]
    ) -> None:
        height, width = q.shape[2:4]
        self.q, self.k = q, k
        self.scale = q.shape[4] ** -0.5
        self.table = bias_table(bias, q, kernel_size)
        self.plans: list[Plan] = [make_plan(height, width, kernel_size, dilation) for dilation in dilations]
        self.memories: list[Tensor | bool | None] = [None, None]
        self.in_pairs: bool | None = None

    def apply(self, v: Tensor, *, chained: bool, again: bool) -> Tensor:
        """Return the maps applied to (B, G, H, W, d); ``chained``: the second to the sum with the first's result."""
        in_pairs = multiplies_pairs(self.q, self.k, v)
        dtype = torch.bfloat16 if in_pairs else torch.float32
        if in_pairs != self.in_pairs:
            # What one kernel stores the other does not read.
            self.in_pairs, self.memories = in_pairs, [None, None]
            self.rows_q, self.rows_k = rows(self.q, dtype), rows(self.k, dtype)
        values, out = rows(v, dtype), empty_heads(v, dtype)
        batch, heads, height, width, head_dim = v.shape
        half = heads // 2
        sizes = batch, half, height, width, head_dim, head_dim
        places: list[Sequence[int]] = [place_of_heads(each) for each in (self.rows_q, self.rows_k, values, out)]
        for branch, plan in enumerate(self.plans):
            if branch:
                places = [(address + half * steps[1], *steps) for address, *steps in places]
                if chained:
                    values = rows(cast(out[:, :half], v.dtype) + v[:, half:], dtype)
                    places[2] = place_of_heads(values)
            self.memories[branch] = attend(
                in_pairs, plan, sizes, self.scale, self.table, places, self.memories[branch], again
            )
        return cast(out, v.dtype)
