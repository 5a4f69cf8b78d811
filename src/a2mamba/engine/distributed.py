"""Several processes as one run: joining them, wrapping the model, agreeing on numbers.

Without torch.distributed all of it is trivial. The processes are started by torchrun, on one machine or many; torch's
DistributedDataParallel averages their gradients.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from a2mamba.engine.sync_norm import synchronize_norms

_ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting", "gloo", "NCCL")


def rank() -> int:
    """This process among all of the run, 0 when it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """How many processes take part in the run, 1 when it is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process writes files and messages."""
    return rank() == 0


@contextmanager
def process_group(device: str, *, timeout_minutes: float = 10.0) -> Iterator[str]:
    """Joins the processes that torchrun started, and leaves them at the end; yields the device of this process.

    A process that torchrun did not start, or that has joined already, gets its own device back. On GPUs each process
    takes the one of its local rank; gradients go through NCCL and small numbers through gloo. On CPUs gloo does both.

    Args:
        device: "cpu" or "cuda"; "cuda:1" too where there is one process.
        timeout_minutes: how long one process waits for another before the run is given up. The slowest thing that
            only one process does, saving a checkpoint, has to be faster.

    Raises:
        ValueError: where a variable of torchrun is missing, there are fewer GPUs than local processes, or the device
            has no means of communication.
    """
    if dist.is_available() and dist.is_initialized():
        yield device
        return
    present = [name for name in _ENVIRONMENT if name in os.environ]
    if "WORLD_SIZE" not in present or present == ["WORLD_SIZE"]:
        yield device
        return
    missing = [name for name in _ENVIRONMENT if name not in present]
    if missing:
        raise ValueError(f"{', '.join(present)} are set, {', '.join(missing)} not; start the processes with torchrun")
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"several processes cannot train on {kind!r}; choose cpu or cuda")
    local = int(os.environ["LOCAL_RANK"])
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"local process {local} has no GPU: there are {torch.cuda.device_count()}; "
                f"start at most that many with --nproc-per-node"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    dist.init_process_group(
        "gloo" if kind == "cpu" else "cpu:gloo,cuda:nccl", timeout=timedelta(minutes=timeout_minutes)
    )
    try:
        yield device
    finally:
        dist.destroy_process_group()


def distribute(model: nn.Module, *, sync_batch_norm: bool, device: torch.device) -> nn.Module:
    """The model as the processes of this run train it together; unchanged where there is no group of processes.

    Args:
        model: on its device, the same in every process.
        sync_batch_norm: batch statistics over the samples of all processes. Otherwise each process normalizes with its
            own, and `average_batch_norm` keeps the running statistics equal.
        device: of the model.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return model
    if sync_batch_norm:
        model = synchronize_norms(model)
    ids = [device.index] if device.type == "cuda" else None
    # The running statistics are the same everywhere already: nothing is left for a broadcast in every forward. (Newer
    # versions of torch have the second name for it and warn at the first.)
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    without_broadcast: dict[str, Any] = {name: False}
    return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **without_broadcast)


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, without DistributedDataParallel and torch.compile around it; its names are those of files."""
    while True:
        compiled = getattr(model, "_orig_mod", None)
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(compiled, nn.Module):
            model = compiled
        else:
            return model


def defer_gradient_sync(model: nn.Module, *, defer: bool) -> AbstractContextManager[None]:
    """Keeps the backward passes inside from averaging gradients over processes, where `defer` and where there are any.

    Of the micro-batches of one step only the last has to: it averages what they have accumulated.
    """
    if defer and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def sum_over_processes(numbers: Sequence[float]) -> list[float]:
    """Each number, summed over all processes, in float64; every process gets the same. Every process has to call it."""
    if world_size() == 1:
        return list(numbers)
    total = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(total)
    return total.tolist()


def gather_objects(value: Any) -> list[Any]:
    """The values of all processes, in the order of their ranks. Every process has to call it."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def from_main_process(value: Any) -> Any:
    """The first process's value. Every process has to call it."""
    if world_size() == 1:
        return value
    carrier = [value]
    dist.broadcast_object_list(carrier, src=0)
    return carrier[0]


class Mergeable(Protocol):
    """A metric that can be divided among processes."""

    def state(self) -> dict[str, Any]:
        """What it has counted, as plain data."""
        ...

    def merge(self, state: Mapping[str, Any]) -> None:
        """Adds what another process has counted."""
        ...


def merge_metrics(metrics: Sequence[Mergeable]) -> None:
    """Gives every process the metrics over the samples of all. Call it once, after the last update, in every process.

    Sums of floating-point numbers may differ between processes in their last bits: the order differs. `EvaluationHook`
    takes the first process's results everywhere.
    """
    if world_size() == 1:
        return
    for other, states in enumerate(gather_objects([metric.state() for metric in metrics])):
        if other != rank():
            for metric, state in zip(metrics, states, strict=True):
                metric.merge(state)


@torch.no_grad()
def average_batch_norm(model: nn.Module) -> None:
    """Sets the running statistics of every batch norm to their mean over the processes.

    Done after every step where batch norm is not synchronized, so that a checkpoint at any step is the whole truth.
    """
    if world_size() == 1:
        return
    norms = [m for m in unwrap(model).modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    running = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    if not running:
        return
    flat = torch.cat([value.flatten() for value in running])
    dist.all_reduce(flat)
    means = (flat / world_size()).split([value.numel() for value in running])
    for value, mean in zip(running, means, strict=True):
        value.copy_(mean.view_as(value))


def lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of the run has gone: torch has no type for it on every backend."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or any(phrase in str(error) for phrase in _LOST)
