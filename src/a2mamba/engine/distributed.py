"""The little that the loop has to know about other processes. Without torch.distributed all of it is trivial."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """This process among all of the run, 0 when it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes take part in the run, 1 when it is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process writes files and messages."""
    return rank() == 0


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, without DistributedDataParallel and torch.compile around it; its names are those of files."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def defer_gradient_sync(model: nn.Module, *, defer: bool) -> AbstractContextManager[None]:
    """Keeps the backward passes inside from averaging gradients over processes, where `defer` and where there are any.

    Of the micro-batches of one step only the last has to: it averages what they have accumulated.
    """
    if defer and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()
