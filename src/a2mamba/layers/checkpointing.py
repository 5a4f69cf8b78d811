"""Activation checkpointing that leaves no trace in the running statistics of BatchNorm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpoint_block(block: nn.Module, *inputs: Tensor) -> Tensor:
    """Return ``block(*inputs)``, recomputing its activations in the backward.

    The recomputation would update running statistics a second time; it does not, so that training with and without
    checkpointing is the same. (Compiled code cannot carry that switch and updates them twice.)
    """
    if torch.compiler.is_compiling():
        return checkpoint(block, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_frozen(block)

    return checkpoint(block, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_frozen(block: nn.Module) -> Iterator[None]:
    """Let batch norm compute as in training, but keep its running statistics and its counter."""
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d) and m.training and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
