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
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    training = [m for m in norms if m.training]
    for norm in training:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in training:
            norm.track_running_stats = True
