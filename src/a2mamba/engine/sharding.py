"""FSDP2 for any model: what is sharded, and the way between shards and the whole tensors that checkpoints hold.

Checkpoints hold whole tensors under the model's own names, whatever strategy wrote them: one file loads with any number
of processes, sharded or not, and into a model that knows nothing of training.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

# torch.distributed.fsdp takes longer to import than all of torch, and a torch built without distribution has none.


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was applied to the model."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(model, fsdp.FSDPModule)


def _is_shard(value: Any) -> bool:
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(value, tensor.DTensor)


def shard(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Shards the parameters of `model` over all processes, in place, and lets `optimizer` (without state) hold them.

    The elements of every ModuleList, which is where networks keep their repeated blocks, are gathered one at a time;
    what is left belongs to the model as a whole. Buffers stay whole.
    """
    from torch.distributed.fsdp import fully_shard

    before = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for block in module:
                if not is_sharded(block) and any(True for _ in block.parameters()):
                    fully_shard(block)
    fully_shard(model)
    if optimizer is not None:
        assert not optimizer.state, "shard before the first step, and load a checkpoint after it"
        after = dict(model.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [after[before[id(parameter)]] for parameter in group["params"]]


@contextmanager
def defer_reduction(model: nn.Module) -> Iterator[None]:
    """Lets backward passes accumulate gradients without reducing them over processes."""
    unit: FSDPModule = model  # type: ignore[assignment]
    unit.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        unit.set_requires_gradient_sync(True)


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Holds a sharded model's parameters gathered, so that forward passes inside need no other process.

    Processes may then differ in the number of their forward passes, as they do when an evaluation set is divided
    unevenly. Without effect on a model that is not sharded; every process has to enter and leave.
    """
    units: list[FSDPModule] = [module for module in model.modules() if is_sharded(module)]  # type: ignore[misc]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            # As fully_shard leaves it: the root is needed first thing in the backward, so it stays until then.
            unit.set_reshard_after_forward(unit is not model, recurse=False)


def to_whole(tree: Any) -> Any:
    """The tree of dicts and lists with every sharded tensor gathered; every process has to call it."""
    if _is_shard(tree):
        return tree.full_tensor()
    if isinstance(tree, dict):
        return {key: to_whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [to_whole(value) for value in tree]
    return tree


def like(saved: Any, target: Any) -> Any:
    """A whole tensor sharded as `target` is; anything else as it is. Every process has the whole tensor."""
    if _is_shard(target) and isinstance(saved, Tensor):
        from torch.distributed.tensor import distribute_tensor

        on_device = saved.to(target.device)
        return distribute_tensor(on_device, target.device_mesh, target.placements, src_data_rank=None)
    return saved


def optimizer_state_like(saved: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A whole optimizer state with the statistics of each parameter sharded as the parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    state = dict(saved["state"])
    for number, parameter in zip(numbers, parameters, strict=True):
        if number in state:
            state[number] = {
                key: like(value, parameter) if _has_shape(value, parameter) else value
                for key, value in state[number].items()
            }
    return saved | {"state": state}


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor: all of it, unless it is sharded."""
    return tensor.to_local() if _is_shard(tensor) else tensor  # type: ignore[attr-defined]


def _has_shape(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape
