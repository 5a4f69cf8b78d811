"""Large maps in chunks on CPUs: what is computed on the way then stays in the cache, and memory is used again.

Where nothing is kept for a backward, a chain of operations over a large map can be computed for a few images or rows at
a time. The results are those of the whole map; the maps in between are small. One pass over a map that outgrows the
cache costs more than the arithmetic of most operations here, and blocks of many megabytes come fresh from the system,
page by page, at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from a2mamba.ops.dispatch import unhooked, unwatched


def may_chunk(module: nn.Module, x: Tensor, channels: int, max_elements: int) -> bool:
    """Whether ``module`` is to be given ``x`` (B, C, H, W) in chunks.

    That is where it makes a map of so many ``channels``, and of more than ``max_elements``; and where it may be: on a
    CPU, in evaluation mode, without anybody noticing.
    """
    # First of all: sizes that a compiler or an export knows as symbols must not be compared.
    if x.device.type != "cpu" or not unwatched(x):
        return False
    large = x.shape[0] * channels * x.shape[2] * x.shape[3] > max_elements
    return large and unhooked(module) and not any(part.training for part in module.modules())


def chunk_bounds(size: int, max_size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last) of as few chunks of nearly one size, at most ``max_size``, as cover range(size)."""
    count = -(-size // max(1, max_size))
    for i in range(count):
        yield size * i // count, size * (i + 1) // count


def over_images(function: Callable[[Tensor], Tensor], x: Tensor, max_images: int) -> Tensor:
    """Return ``function(x)`` of a batch, for at most ``max_images`` at a time."""
    chunks = [function(x[first:last]) for first, last in chunk_bounds(len(x), max_images)]
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def over_rows(function: Callable[[Tensor], Tensor], x: Tensor, max_rows: int, margin: int) -> Tensor:
    """Return ``function(x)`` of maps (B, C, H, W), for at most ``max_rows`` at a time.

    Args:
        function: keeps the size of a map; a row of its result depends on ``margin`` rows above and below, with zeros
            outside the map.
        x: the maps.
        max_rows: of a chunk, its margins not counted.
        margin: rows computed beyond a chunk, and dropped.
    """
    height = x.shape[2]
    chunks = []
    for first, last in chunk_bounds(height, max_rows):
        low, high = max(0, first - margin), min(height, last + margin)
        chunks.append(function(x[:, :, low:high])[:, :, first - low : last - low])
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, dim=2)
