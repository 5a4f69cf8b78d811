"""The two attention maps of a mixer, one on each half of the heads: checks and dispatch."""

from __future__ import annotations

import torch
from torch import Tensor

from a2mamba.ops.dispatch import unfit, unwatched
from a2mamba.ops.neighborhood import comparison, numba_branches, numba_impl
from a2mamba.ops.neighborhood.operator import NeighborhoodMap


class BranchedMap:
    """Two :class:`NeighborhoodMap`, on the first and the second half of the heads, with one table of biases.

    On a CPU, where nothing but the result is wanted, both are one call; otherwise they are what they say.

    Args:
        q, k: queries and keys (B, G, H, W, d), G even.
        bias: (G / 2, 2 K - 1, 2 K - 1), of both halves.
        kernel_size: K, odd.
        dilation: of the second half; that of the first is 1.
        again: announces more than one application, as to :class:`NeighborhoodMap`.

    Raises:
        ValueError: for shapes that do not fit, here or at an application.
    """

    def __init__(
        self, q: Tensor, k: Tensor, bias: Tensor, *, kernel_size: int, dilation: tuple[int, int], again: bool = False
    ) -> None:
        if q.dim() != 5 or q.shape[1] % 2:
            raise ValueError(f"q must be (B, heads, H, W, d) with an even number of heads, got {tuple(q.shape)}")
        self.q, self.k, self.bias = q, k, bias
        self.kernel_size, self.dilation, self.again = kernel_size, dilation, again
        self._both: numba_branches.Branches | None = None
        self._maps: tuple[NeighborhoodMap, NeighborhoodMap] | None = None

    def chain(self, v: Tensor) -> Tensor:
        """Return both maps applied to ``v`` (B, G, H, W, d), the second to the sum of its half and the first's result.

        The heads of a position lie side by side in memory.
        """
        if self._as_one(v):
            return self._one().apply(v, chained=True, again=self.again)
        first, second = self._two()
        v1, v2 = torch.chunk(v, 2, dim=1)
        local = first(v1)
        both = local, second(local + v2)
        return torch.cat([each.permute(0, 2, 3, 1, 4) for each in both], dim=3).permute(0, 3, 1, 2, 4)

    def __call__(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps applied to the halves of the heads of ``v``, each (B, G / 2, H, W, d)."""
        if self._as_one(v):
            first, second = torch.chunk(self._one().apply(v, chained=False, again=self.again), 2, dim=1)
            return first, second
        v1, v2 = torch.chunk(v, 2, dim=1)
        first_map, second_map = self._two()
        return first_map(v1), second_map(v2)

    def _as_one(self, v: Tensor) -> bool:
        q, k, bias = self.q, self.k, self.bias
        if not unwatched(v) or v.shape != q.shape or not v.numel():
            return False
        if self._both is not None:
            return unfit(q=q, v=v) is None
        span = 2 * self.kernel_size - 1
        if q.shape != k.shape or q.dtype != k.dtype or bias.shape != (q.shape[1] // 2, span, span):
            return False
        settings = (self.kernel_size, self.kernel_size), self.dilation, 1.0
        return numba_impl.why_not(q, k, v, bias, *settings) is None and comparison.numba(v.device) is None

    def _one(self) -> numba_branches.Branches:
        if self._both is None:
            window = self.kernel_size, self.kernel_size
            self._both = numba_branches.Branches(self.q, self.k, self.bias, window, ((1, 1), self.dilation))
        return self._both

    def _two(self) -> tuple[NeighborhoodMap, NeighborhoodMap]:
        if self._maps is None:
            (q1, q2), (k1, k2) = torch.chunk(self.q, 2, dim=1), torch.chunk(self.k, 2, dim=1)
            self._maps = (
                NeighborhoodMap(q1, k1, self.bias, kernel_size=self.kernel_size, again=self.again),
                NeighborhoodMap(
                    q2, k2, self.bias, kernel_size=self.kernel_size, dilation=self.dilation, again=self.again
                ),
            )
        return self._maps
