"""The cases that tests, self-tests and benchmarks of neighborhood attention share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from a2mamba.ops.case_parts import drawing


@dataclass(frozen=True)
class Case:
    """Sizes of one call; ``e`` is the width of a value head, ``None`` for that of queries and keys."""

    batch: int
    heads: int
    height: int
    width: int
    d: int
    kernel_size: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    e: int | None = None
    bias: bool = True

    def __str__(self) -> str:
        value = "" if self.e is None else f"e{self.e}"
        bias = "" if self.bias else "-nobias"
        (kh, kw), (rh, rw) = self.kernel_size, self.dilation
        size = f"b{self.batch}g{self.heads}-{self.height}x{self.width}-d{self.d}{value}"
        return f"{size}-k{kh}x{kw}-r{rh}x{rw}{bias}"

    def inputs(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return q, k, v (B, G, H, W, .) and the bias or None; memory is (B, H, W, G, .) as in the networks."""
        draw = drawing(seed)

        def heads(width: int) -> Tensor:
            x = draw(self.batch, self.height, self.width, self.heads, width).to(device, dtype)
            return x.permute(0, 3, 1, 2, 4)

        q, k, v = heads(self.d), heads(self.d), heads(self.d if self.e is None else self.e)
        if not self.bias:
            return q, k, v, None
        table = 0.5 * draw(self.heads, 2 * self.kernel_size[0] - 1, 2 * self.kernel_size[1] - 1)
        return q, k, v, table.to(device, dtype)


CASES = (
    Case(1, 1, 1, 1, 8, (7, 7)),
    Case(2, 2, 5, 9, 8, (7, 7)),
    Case(1, 2, 3, 20, 8, (5, 7), (1, 2)),
    Case(1, 2, 13, 11, 8, (5, 5)),
    Case(2, 1, 12, 17, 16, (7, 7), (1, 2)),
    Case(1, 2, 14, 14, 8, (7, 7), (2, 2)),
    Case(1, 1, 23, 30, 12, (7, 7), (3, 4)),
    Case(1, 2, 15, 16, 8, (3, 3), (3, 3), bias=False),
    Case(1, 1, 26, 27, 24, (11, 11), (2, 2)),
    Case(1, 2, 31, 9, 8, (3, 9), (4, 1), e=24),
    Case(1, 1, 19, 21, 32, (13, 13), e=16),
    Case(1, 2, 10, 10, 8, (1, 1)),
    Case(1, 1, 20, 20, 8, (7, 7), (9, 9)),
    Case(0, 1, 8, 8, 8, (3, 3)),
)
"""Small and odd maps, every border, windows wider than the map, dilations that do not divide it."""
