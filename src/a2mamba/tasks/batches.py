"""The total batch: how it is shared out over processes and forward passes. Knows no task.

A run states its total batch, `data.batch_size`: the samples of one optimizer step, over all processes and all forward
passes. What a machine has room for changes the number of passes and nothing of the step's gradient, with one
exception: batch norm's statistics, and the one decision of mixup or cutmix, are those of a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from a2mamba.engine import Progress, TrainingTask, distributed, kept_rng, move_to, resolve_precision, world_size
from a2mamba.tasks.run import TrainingRun

_USABLE = 0.9  # of the memory that is free: allocators need room between their blocks


class BatchPlan(NamedTuple):
    """How the total batch of one optimizer step is shared out.

    micro_batch: samples of one forward pass on one process.
    accumulate: forward passes of one process in one optimizer step.
    """

    micro_batch: int
    accumulate: int


def plan_batches(total: int, *, world_size: int, micro_batch: int | None = None) -> BatchPlan:
    """Share a total batch out: the fewest equal forward passes that fit, on every process.

    Args:
        total: samples of one optimizer step, over all processes.
        world_size: number of processes.
        micro_batch: the largest batch of one forward pass on one process; None: no limit.

    Returns:
        A plan with ``micro_batch * accumulate * world_size == total``.

    Raises:
        ValueError: the total cannot be shared equally, or only in passes of less than half of ``micro_batch``, which
            would waste the machine; the message names totals that can.
    """
    if world_size < 1:
        raise ValueError(f"world_size={world_size}: expected 1 or more")
    if total < 1:
        raise ValueError(f"data.batch_size={total}: expected 1 or more")
    if micro_batch is not None and micro_batch < 1:
        raise ValueError(f"micro_batch={micro_batch}: expected 1 or more, or none")
    share, rest = divmod(total, world_size)
    if rest:
        nearest = [str(count * world_size) for count in (share, share + 1) if count]
        raise ValueError(
            f"data.batch_size={total} is the total batch and cannot be shared equally by {world_size} processes; "
            f"use {' or '.join(nearest)}"
        )
    passes = _passes(share, micro_batch)
    if passes is None:
        assert micro_batch is not None, "without a limit one pass always fits"
        below = next((n for n in range(share - 1, 0, -1) if _passes(n, micro_batch)), None)
        above = next(n for n in range(share + 1, 2 * share + micro_batch) if _passes(n, micro_batch))
        nearest = [str(n * world_size) for n in (below, above) if n is not None]
        raise ValueError(
            f"data.batch_size={total} gives each of {world_size} processes {share} samples a step, which cannot be cut "
            f"into equal passes of at most {micro_batch} and no less than half of it; use {' or '.join(nearest)}, or "
            f"another micro_batch"
        )
    return BatchPlan(share // passes, passes)


def plan_for_device(
    run: TrainingRun,
    losses: TrainingTask,
    noise: Callable[[int], Any],
    *,
    total: int,
    device: torch.device | str,
) -> BatchPlan:
    """Share a total batch out over the processes of a run, by `micro_batch` or by what the device has room for.

    Args:
        run: micro_batch, precision, memory format, averaged model.
        losses: its model is on the device, and is left as it was.
        noise: makes a training batch of so many samples.
        total: samples of one optimizer step.
        device: where.

    Raises:
        ValueError: it cannot be shared out; one line.
    """
    limit = run.micro_batch
    if limit is None and torch.device(device).type == "cuda":
        share = plan_batches(total, world_size=world_size()).micro_batch
        attempt = partial(_attempt, run, losses, noise, torch.device(device))
        limit = largest_micro_batch(share, attempt, device=device, reserve=_training_bytes(run, losses.model))
    return plan_batches(total, world_size=world_size(), micro_batch=limit)


def _attempt(
    run: TrainingRun, losses: TrainingTask, noise: Callable[[int], Any], device: torch.device, size: int
) -> None:
    """One forward and backward pass, which leaves the model as it was."""
    model = losses.model
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    memory_format = torch.channels_last if run.channels_last else torch.preserve_format
    try:
        with kept_rng(device):
            model.train()
            if size == 1:
                # One image has no batch statistics; synchronized norms get them from other processes in training.
                for module in model.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
            with resolve_precision(run.precision, device).autocast():
                terms = losses.losses(
                    move_to(noise(size), device, memory_format), Progress(epoch=0, step=0, steps_per_epoch=1, epochs=1)
                )
                loss = torch.stack([value.float() for value in terms.values()]).sum()
            loss.backward()
    finally:
        model.zero_grad(set_to_none=True)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])


def _training_bytes(run: TrainingRun, model: nn.Module) -> int:
    """What training holds beside a pass: at most two moments of the optimizer, and the averaged model."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return size * (2 if run.ema_decay is None else 3)


def _passes(share: int, limit: int | None) -> int | None:
    """The smallest number of equal passes within the limit; None where they would be less than half of it."""
    if limit is None or share <= limit:
        return 1
    passes = next(n for n in range(-(-share // limit), share + 1) if share % n == 0)
    return passes if 2 * (share // passes) >= limit else None


def largest_micro_batch(
    share: int, attempt: Callable[[int], None], *, device: torch.device | str, reserve: int = 0
) -> int:
    """Find the largest batch of one forward and backward pass that this device has room for.

    On a CPU it is ``share``: what a pass takes there cannot be known without taking it. On a CUDA device, batches that
    divide ``share`` are tried from the largest down; of several processes the one with the least room decides.

    Args:
        share: samples of one process in one optimizer step.
        attempt: runs forward and backward on this many samples of the real size.
        device: where ``attempt`` runs.
        reserve: bytes that have to stay free, for what exists in training and not in the attempt.

    Raises:
        ValueError: there is no room for a single sample.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return share
    found = next((size for size in _divisors(share) if _has_room(attempt, size, device, reserve)), 0)
    if distributed.world_size() > 1:  # all processes have to make the same number of passes
        least = torch.tensor(found, device=device)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        found = int(least)
    if found:
        return found
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    raise ValueError(
        f"{device} ({total:.0f} GiB) has no room for one training sample; use a smaller model or image, or gradient "
        f"checkpointing"
    )


def _divisors(number: int) -> Iterator[int]:
    """The divisors, largest first."""
    return (number // n for n in range(1, number + 1) if number % n == 0)


def _has_room(attempt: Callable[[int], None], size: int, device: torch.device, reserve: int) -> bool:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    try:
        attempt(size)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated(device) + reserve <= _USABLE * free
