"""Batches and states are trees of tuples, lists and dicts; tensors are their leaves, next to names and other values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


def move_to(tree: Any, device: torch.device, memory_format: torch.memory_format = torch.preserve_format) -> Any:
    """The tree with every tensor on `device`; 4-D floating-point tensors also in `memory_format`.

    Tuples (named ones too), lists and dicts keep their type and order; other values are returned as they are. The
    copy from pinned memory does not wait for the device.
    """

    def move(tensor: Tensor) -> Tensor:
        image = tensor.ndim == 4 and tensor.is_floating_point()
        return tensor.to(device, non_blocking=True, memory_format=memory_format if image else torch.preserve_format)

    return tree_map_only(Tensor, move, tree)


def copy_to_cpu(tree: Any) -> Any:
    """The tree with a copy of every tensor, in main memory."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), tree)


def all_finite(tree: Any) -> bool:
    """Whether every floating-point tensor of the tree is finite everywhere."""
    tensors = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
